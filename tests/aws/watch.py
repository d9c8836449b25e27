"""`make watch`: serves the functions with `cargo lambda watch` and a local AWS that has the images of the demo.

Invoke the functions one by one, as docs/deploy.md shows. Ctrl-C stops both.
"""

import os
import signal
import subprocess
import sys
import tempfile

from local_aws import ROOT, VENVS, LocalAws

IMAGES, RESULTS = "pomona-images", "pomona-results"


def main():
    port = int(os.environ.get("PORT", "9000"))
    with LocalAws() as aws, tempfile.TemporaryDirectory() as folder:
        s3 = aws.client("s3")
        for bucket in (IMAGES, RESULTS):
            s3.create_bucket(Bucket=bucket)
        aws.pomona("demo", folder, "--images-only", "--views", 4)
        count = 0
        for root, _, names in os.walk(f"{folder}/images"):
            for name in names:
                path = os.path.join(root, name)
                s3.upload_file(path, IMAGES, "images/" + os.path.relpath(path, f"{folder}/images"))
                count += 1
        env = aws.environment()
        # The environment of the trigger and of query in the template.
        env |= {"INPUT": f"s3://{IMAGES}/images/", "OUTPUT": f"s3://{RESULTS}/pomona/first/", "SETTINGS": "{}",
                "PHOTOS": f"s3://{RESULTS}/pomona-query-photos/",
                "STATE_MACHINE_ARN": "arn:aws:states:us-east-1:000000000000:stateMachine:none"}
        command = [VENVS / "cargo-lambda/bin/cargo-lambda", "lambda", "watch", "--release", "--invoke-address", "127.0.0.1",
                   "--invoke-port", str(port), *sys.argv[1:]]
        print(f"{count} images in s3://{IMAGES}/images/ of a local AWS at {aws.endpoint}", flush=True)
        print("Functions at http://127.0.0.1:%d; in another terminal, for example:\n" % port, flush=True)
        print(f"  .venv/cargo-lambda/bin/cargo-lambda lambda invoke -p {port} plan "
              "--data-file functions/plan/events/first.json\n", flush=True)
        watch = subprocess.Popen(command, cwd=ROOT, env=env)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            watch.wait()
        except (KeyboardInterrupt, SystemExit):
            watch.send_signal(signal.SIGINT)
            watch.wait(20)


if __name__ == "__main__":
    main()
