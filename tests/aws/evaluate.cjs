// Evaluates IAM policies with @cloud-copilot/iam-simulate, a process of its own beside the tests (see iam.py).
// A line of input has a question, a line of output its answers, in the same order.

const { createRequire } = require('node:module')
const { createInterface } = require('node:readline')

const { runSimulation } = createRequire(process.argv[2] + '/')('@cloud-copilot/iam-simulate')

async function answer({ principal, account, policies, boundary, resourcePolicy, asks }) {
  const results = []
  for (const { action, resource, context } of asks) {
    const simulation = {
      request: { principal, action, resource: { resource, accountId: account }, contextVariables: context },
      identityPolicies: policies,
      permissionBoundaryPolicies: boundary ? [{ name: 'boundary', policy: boundary }] : undefined,
      serviceControlPolicies: [],
      resourceControlPolicies: [],
      resourcePolicy: resourcePolicy ?? undefined
    }
    const done = await runSimulation(simulation, { simulationMode: 'Strict' })
    results.push(done.resultType === 'error' ? { error: JSON.stringify(done.errors) } : { result: done.overallResult })
  }
  return results
}

async function main() {
  for await (const line of createInterface({ input: process.stdin })) {
    process.stdout.write(JSON.stringify(await answer(JSON.parse(line))) + '\n')
  }
}

main()
