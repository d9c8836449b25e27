//! Deployments of the stack: the upload of a [`Package`], the change set, and the events of CloudFormation.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_config::{Region, SdkConfig};
use aws_sdk_cloudformation::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types::{
        Capability, ChangeSetStatus, ChangeSetType, Parameter as Given, ResourceStatus, Stack, StackEvent, StackStatus,
        Tag,
    },
};
use aws_sdk_s3::{
    primitives::ByteStream,
    types::{BucketLocationConstraint, CreateBucketConfiguration, PublicAccessBlockConfiguration},
};
use serde::Serialize;

use super::package::{Package, Upload};
use crate::{
    Error, ErrorKind, Result,
    store::{self, failures},
};

/// Between two questions about a change set or a stack.
const PAUSE: Duration = Duration::from_secs(2);
/// The region in whose requests for buckets no region may be named.
const USUAL_REGION: &str = "us-east-1";

/// The clients of an account in a region.
#[derive(Clone, Debug)]
pub struct Deployments {
    cloudformation: Client,
    s3: aws_sdk_s3::Client,
    sts: aws_sdk_sts::Client,
    region: String,
}

/// What a change set would do to one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `Add`, `Modify` or `Remove`.
    pub action: String,
    /// The name in the template.
    pub resource: String,
    /// Such as `AWS::Lambda::Function`.
    pub kind: String,
    /// Whether a modified resource is replaced: `True`, `False` or `Conditional`.
    pub replacement: Option<String>,
}

/// A change set that can be executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangeSet {
    /// The stack.
    pub stack: String,
    /// Its ARN.
    pub arn: String,
    /// Whether the stack does not exist yet.
    pub is_new: bool,
    /// What it changes; empty if there is nothing to do.
    pub changes: Vec<Change>,
}

/// The progress of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The name in the template.
    pub resource: String,
    /// Such as `CREATE_COMPLETE`.
    pub status: String,
    /// Whether it has come to its end, well or not.
    pub ended: bool,
}

impl Deployments {
    /// Connects to a region; without one, to that of the environment.
    pub async fn connect(region: Option<&str>) -> Self {
        let environment = store::aws_environment().await;
        let environment: SdkConfig = match region {
            Some(region) => environment.into_builder().region(Region::new(region.to_owned())).build(),
            None => environment,
        };
        Deployments {
            cloudformation: Client::new(&environment),
            s3: store::s3_client_of(&environment),
            sts: aws_sdk_sts::Client::new(&environment),
            region: environment.region().map_or_else(|| USUAL_REGION.to_owned(), ToString::to_string),
        }
    }

    /// The region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The number of the account. Fails with `Credentials.*`.
    pub async fn account(&self) -> Result<String> {
        let identity = self.sts.get_caller_identity().send().await;
        let identity = identity.map_err(|e| failed("sts:GetCallerIdentity", &self.region, e))?;
        identity.account().map(str::to_owned).ok_or_else(|| {
            Error::new(ErrorKind::StoreUnavailable, "AWS does not say which account the credentials are of")
        })
    }

    /// The parameters of a stack; None if it does not exist. Fails with `Stack.Failed` if it cannot be changed.
    pub async fn parameters(&self, stack: &str) -> Result<Option<BTreeMap<String, String>>> {
        let Some(found) = self.stack(stack).await? else { return Ok(None) };
        match found.stack_status() {
            Some(StackStatus::ReviewInProgress) => return Ok(None),
            Some(StackStatus::RollbackComplete | StackStatus::CreateFailed | StackStatus::DeleteFailed) => {
                let status = found.stack_status().map_or("", StackStatus::as_str);
                let message = "the stack was never deployed completely and must be deleted first";
                return Err(Error::new(ErrorKind::StackFailed, message)
                    .context("stack", stack)
                    .context("status", status));
            }
            _ => {}
        }
        let pair = |given: &Given| Some((given.parameter_key()?.to_owned(), given.parameter_value()?.to_owned()));
        Ok(Some(found.parameters().iter().filter_map(pair).collect()))
    }

    async fn stack(&self, stack: &str) -> Result<Option<Stack>> {
        match self.cloudformation.describe_stacks().stack_name(stack).send().await {
            Ok(found) => Ok(found.stacks().first().cloned()),
            // CloudFormation has no error of its own for this.
            Err(e) if e.message().is_some_and(|text| text.contains("does not exist")) => Ok(None),
            Err(e) => Err(failed("cloudformation:DescribeStacks", stack, e)),
        }
    }

    /// Uploads the files of a package to the account's bucket `pomona-deploy-<account>-<region>`, which is made if it does not
    /// exist. Returns the address of the template. Files that are there already are not sent again.
    pub async fn upload(&self, package: &Package, account: &str) -> Result<String> {
        let bucket = format!("pomona-deploy-{account}-{}", self.region);
        self.make_bucket(&bucket, account).await?;
        let uploads = package.uploads(&bucket);
        let [.., template] = &uploads;
        let address = format!("https://s3.{}.{}/{bucket}/{}", self.region, self.domain(), template.key);
        for upload in uploads {
            self.put(&bucket, account, upload).await?;
        }
        Ok(address)
    }

    fn domain(&self) -> &'static str {
        if self.region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
    }

    /// Another account may have made a bucket with this name. Only one of this account is used.
    async fn make_bucket(&self, bucket: &str, account: &str) -> Result<()> {
        let found = self.s3.head_bucket().bucket(bucket).expected_bucket_owner(account).send().await;
        match found {
            Ok(_) => return Ok(()),
            Err(e) if e.raw_response().is_some_and(|response| response.status().as_u16() == 404) => {}
            Err(e) => return Err(failed("s3:ListBucket", bucket, e)),
        }
        let mut request = self.s3.create_bucket().bucket(bucket);
        if self.region != USUAL_REGION {
            let place = BucketLocationConstraint::from(self.region.as_str());
            request = request
                .create_bucket_configuration(CreateBucketConfiguration::builder().location_constraint(place).build());
        }
        request.send().await.map_err(|e| failed("s3:CreateBucket", bucket, e))?;
        let closed = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .block_public_policy(true)
            .ignore_public_acls(true)
            .restrict_public_buckets(true)
            .build();
        let request = self.s3.put_public_access_block().bucket(bucket).public_access_block_configuration(closed);
        request.send().await.map_err(|e| failed("s3:PutBucketPublicAccessBlock", bucket, e))?;
        Ok(())
    }

    async fn put(&self, bucket: &str, account: &str, upload: Upload) -> Result<()> {
        let head = self.s3.head_object().bucket(bucket).key(&upload.key).expected_bucket_owner(account).send().await;
        if head.is_ok_and(|head| head.content_length() == Some(upload.body.len() as i64)) {
            return Ok(());
        }
        let request = self.s3.put_object().bucket(bucket).key(&upload.key).expected_bucket_owner(account);
        let sent = request.body(ByteStream::from(upload.body)).send().await;
        sent.map(drop).map_err(|e| failed("s3:PutObject", &format!("s3://{bucket}/{}", upload.key), e))
    }

    /// Makes a change set and waits for it. `known` are the parameters of the stack, if it exists; a parameter of the template
    /// that is not `given` keeps its value, or gets its default.
    pub async fn change_set(
        &self,
        stack: &str,
        template: &str,
        given: &BTreeMap<String, String>,
        known: Option<&BTreeMap<String, String>>,
    ) -> Result<ChangeSet> {
        let kept = known.into_iter().flat_map(BTreeMap::keys).filter(|name| !given.contains_key(*name));
        let kept = kept.map(|name| Given::builder().parameter_key(name).use_previous_value(true).build());
        let new = given.iter().map(|(name, value)| Given::builder().parameter_key(name).parameter_value(value).build());
        let kind = if known.is_some() { ChangeSetType::Update } else { ChangeSetType::Create };
        let name = format!("pomona-{}", SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis()));
        let request = self
            .cloudformation
            .create_change_set()
            .stack_name(stack)
            .change_set_name(name)
            .change_set_type(kind)
            .template_url(template)
            .capabilities(Capability::CapabilityIam)
            .capabilities(Capability::CapabilityAutoExpand)
            .tags(Tag::builder().key("application").value("pomona").build())
            .set_parameters(Some(kept.chain(new).collect()));
        let made = request.send().await.map_err(|e| failed("cloudformation:CreateChangeSet", stack, e))?;
        let arn = made.id().unwrap_or_default().to_owned();
        let changes = self.changes(stack, &arn).await?;
        Ok(ChangeSet { stack: stack.to_owned(), arn, is_new: known.is_none(), changes })
    }

    /// Waits for a change set, and reads it.
    async fn changes(&self, stack: &str, arn: &str) -> Result<Vec<Change>> {
        let (mut changes, mut page) = (Vec::new(), None);
        loop {
            let request = self.cloudformation.describe_change_set().change_set_name(arn).set_next_token(page.take());
            let found = request.send().await.map_err(|e| failed("cloudformation:DescribeChangeSet", stack, e))?;
            match found.status() {
                Some(ChangeSetStatus::CreateComplete) => {}
                Some(ChangeSetStatus::Failed) => {
                    let reason = found.status_reason().unwrap_or_default();
                    if ["didn't contain changes", "No updates are to be performed"].iter().any(|no| reason.contains(no))
                    {
                        return Ok(Vec::new());
                    }
                    let message = "CloudFormation refuses the template or its parameters";
                    return Err(Error::new(ErrorKind::StackFailed, message).context("stack", stack).source(reason));
                }
                _ => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            }
            changes.extend(found.changes().iter().filter_map(|change| change.resource_change()).map(|change| Change {
                action: change.action().map_or("", |action| action.as_str()).to_owned(),
                resource: change.logical_resource_id().unwrap_or_default().to_owned(),
                kind: change.resource_type().unwrap_or_default().to_owned(),
                replacement: change.replacement().map(|replacement| replacement.as_str().to_owned()),
            }));
            page = found.next_token().map(str::to_owned);
            if page.is_none() {
                return Ok(changes);
            }
        }
    }

    /// Deletes a change set, and the empty stack that it has made.
    pub async fn discard(&self, change_set: &ChangeSet) -> Result<()> {
        let stack = &change_set.stack;
        let delete = self.cloudformation.delete_change_set().change_set_name(&change_set.arn);
        delete.send().await.map_err(|e| failed("cloudformation:DeleteChangeSet", stack, e))?;
        if change_set.is_new {
            let delete = self.cloudformation.delete_stack().stack_name(stack);
            delete.send().await.map_err(|e| failed("cloudformation:DeleteStack", stack, e))?;
        }
        Ok(())
    }

    /// Executes a change set and waits until the stack has changed. Returns the outputs of the stack, by name. Fails with
    /// `Stack.Failed` if CloudFormation goes back to what was there before.
    pub async fn execute(
        &self,
        change_set: &ChangeSet,
        mut watch: impl FnMut(&Progress),
    ) -> Result<BTreeMap<String, String>> {
        let stack = change_set.stack.as_str();
        let mut seen: HashSet<String> = self.events(stack).await?.into_iter().filter_map(id_of).collect();
        let execute = self.cloudformation.execute_change_set().change_set_name(&change_set.arn);
        execute.send().await.map_err(|e| failed("cloudformation:ExecuteChangeSet", stack, e))?;
        let mut cause = None;
        loop {
            // The status first: what happens between the two questions is an event.
            let found = self.stack(stack).await?;
            for event in self.events(stack).await?.into_iter().rev() {
                if !event.event_id().is_some_and(|id| seen.insert(id.to_owned())) {
                    continue;
                }
                if cause.is_none() {
                    cause = failure(&event);
                }
                watch(&progress(&event));
            }
            let status = found.as_ref().and_then(Stack::stack_status).map_or("", StackStatus::as_str).to_owned();
            if status.ends_with("_IN_PROGRESS") {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            if ["CREATE_COMPLETE", "UPDATE_COMPLETE"].contains(&status.as_str()) {
                let outputs = found.iter().flat_map(|stack| stack.outputs());
                let pair = |(name, value): (Option<&str>, Option<&str>)| Some((name?.to_owned(), value?.to_owned()));
                return Ok(outputs.map(|o| (o.output_key(), o.output_value())).filter_map(pair).collect());
            }
            let error = Error::new(ErrorKind::StackFailed, "the deployment has failed")
                .context("stack", stack)
                .context("status", status);
            return Err(match cause {
                Some(cause) => error.source(cause),
                None => error,
            });
        }
    }

    /// The events of a stack, the newest first.
    async fn events(&self, stack: &str) -> Result<Vec<StackEvent>> {
        let mut events = Vec::new();
        let mut pages = self.cloudformation.describe_stack_events().stack_name(stack).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| failed("cloudformation:DescribeStackEvents", stack, e))?;
            events.extend(page.stack_events.unwrap_or_default());
        }
        Ok(events)
    }
}

fn id_of(event: StackEvent) -> Option<String> {
    event.event_id().map(str::to_owned)
}

/// Why a resource has failed. The others are cancelled after the first one, which says nothing.
fn failure(event: &StackEvent) -> Option<String> {
    let status = event.resource_status().map_or("", ResourceStatus::as_str);
    let reason = event.resource_status_reason().unwrap_or_default();
    let is_cause = status.ends_with("_FAILED") && !reason.contains("cancelled");
    is_cause.then(|| format!("{}: {reason}", event.logical_resource_id().unwrap_or_default()))
}

fn progress(event: &StackEvent) -> Progress {
    let status = event.resource_status().map_or("", ResourceStatus::as_str);
    Progress {
        resource: event.logical_resource_id().unwrap_or_default().to_owned(),
        status: status.to_owned(),
        ended: !status.ends_with("_IN_PROGRESS"),
    }
}

/// Converts an error of a request that `action` must be allowed for.
fn failed<E>(action: &'static str, what: &str, error: SdkError<E>) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
    SdkError<E>: ProvideErrorMetadata,
{
    if let Some(failure) = failures::of_credentials(&error) {
        return failure.context("action", action).context("target", what);
    }
    let status = error.raw_response().map(|response| response.status().as_u16());
    let (kind, message) = match (error.code(), status) {
        (Some("AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation"), _) | (_, Some(403)) => {
            (ErrorKind::StackDenied, "AWS refuses a step of the deployment")
        }
        (Some("Throttling" | "ThrottlingException" | "SlowDown"), _) => {
            (ErrorKind::StoreThrottled, "AWS throttles requests")
        }
        (Some(_), Some(400..500)) => (ErrorKind::StackFailed, "AWS refuses a step of the deployment"),
        _ => (ErrorKind::StoreUnavailable, "AWS could not be reached"),
    };
    Error::new(kind, message).context("action", action).context("target", what).source(failures::cause(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(status: ResourceStatus, reason: &str) -> StackEvent {
        let event = StackEvent::builder().logical_resource_id("PlanFunction").resource_status(status);
        event.resource_status_reason(reason).build()
    }

    #[test]
    fn the_cause_of_a_failed_deployment_is_no_cancelled_resource() {
        assert_eq!(failure(&event(ResourceStatus::CreateFailed, "Resource creation cancelled")), None);
        assert_eq!(failure(&event(ResourceStatus::CreateComplete, "")), None);
        let found = failure(&event(ResourceStatus::UpdateFailed, "the quota is 3008 MB"));
        assert_eq!(found.as_deref(), Some("PlanFunction: the quota is 3008 MB"));
    }

    #[test]
    fn a_resource_in_progress_has_not_ended() {
        assert!(!progress(&event(ResourceStatus::CreateInProgress, "")).ended);
        assert!(progress(&event(ResourceStatus::CreateComplete, "")).ended);
        assert!(progress(&event(ResourceStatus::DeleteSkipped, "")).ended);
    }
}
