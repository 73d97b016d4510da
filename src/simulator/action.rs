//! The actions and their parameters. The names are from botocore's service model 2016-11-15.

use super::{query::Call, refusal::Refusal};
use crate::domain::{MAX_FILTER_VALUES, MAX_IMAGES_PER_CALL, MAX_TASKS_PER_CALL};

/// The action of a call.
#[derive(Debug)]
pub(super) enum Action {
    Describe(Describe),
    Create(Create),
}

/// `DescribeStoreImageTasks`
#[derive(Debug)]
pub(super) struct Describe {
    pub(super) image_ids: Vec<String>,
    pub(super) states: Vec<String>,
    pub(super) buckets: Vec<String>,
    pub(super) max_results: Option<u8>,
    pub(super) next_token: Option<String>,
}

/// `CreateStoreImageTask`
#[derive(Debug)]
pub(super) struct Create {
    pub(super) image_id: String,
    pub(super) bucket: String,
}

impl Action {
    pub(super) fn parse(call: &Call) -> Result<Self, Refusal> {
        match call.action.as_str() {
            "DescribeStoreImageTasks" => Ok(Self::Describe(Describe::parse(call)?)),
            "CreateStoreImageTask" => Ok(Self::Create(Create::parse(call)?)),
            "" => Err(Refusal::new(400, "MissingAction", "The request is missing an action.")),
            other => Err(Refusal::new(
                400,
                "InvalidAction",
                format!("The action {other} is not valid for this web service."),
            )),
        }
    }
}

impl Describe {
    fn parse(call: &Call) -> Result<Self, Refusal> {
        let mut describe = Self {
            image_ids: call.list("ImageId"),
            states: Vec::new(),
            buckets: Vec::new(),
            max_results: max_results(call)?,
            next_token: call.get("NextToken").map(str::to_owned),
        };
        describe.parse_filters(call)?;
        describe.check_image_ids()?;
        Ok(describe)
    }

    fn parse_filters(&mut self, call: &Call) -> Result<(), Refusal> {
        for number in 1.. {
            let Some(name) = call.get(&format!("Filter.{number}.Name")) else { break };
            let values = call.list(&format!("Filter.{number}.Value"));
            match name {
                "task-state" => self.states.extend(values),
                "bucket" => self.buckets.extend(values),
                other => {
                    return Err(Refusal::invalid_value(format!("The filter '{other}' is invalid")));
                }
            }
        }
        if self.states.len() + self.buckets.len() > MAX_FILTER_VALUES {
            return Err(Refusal::new(
                400,
                "FilterLimitExceeded",
                format!("The maximum number of filter values is {MAX_FILTER_VALUES}"),
            ));
        }
        Ok(())
    }

    fn check_image_ids(&self) -> Result<(), Refusal> {
        let is_listing = self.max_results.is_some() || self.next_token.is_some();
        if !self.image_ids.is_empty() && is_listing {
            return Err(Refusal::new(
                400,
                "InvalidParameterCombination",
                "The parameter imageIds cannot be used with the parameter maxResults or nextToken",
            ));
        }
        if self.image_ids.len() > MAX_IMAGES_PER_CALL {
            return Err(Refusal::invalid_value(format!(
                "At most {MAX_IMAGES_PER_CALL} image IDs can be specified"
            )));
        }
        Ok(())
    }
}

fn max_results(call: &Call) -> Result<Option<u8>, Refusal> {
    let Some(text) = call.get("MaxResults") else {
        return Ok(None);
    };
    match text.parse() {
        Ok(number) if (1..=MAX_TASKS_PER_CALL).contains(&number) => Ok(Some(number)),
        _ => Err(Refusal::invalid_value(format!(
            "Value ( {text} ) for parameter maxResults is invalid. Expecting a value between 1 and {MAX_TASKS_PER_CALL}."
        ))),
    }
}

impl Create {
    fn parse(call: &Call) -> Result<Self, Refusal> {
        Ok(Self { image_id: call.required("ImageId")?, bucket: call.required("Bucket")? })
    }

    pub(super) fn check_bucket(&self) -> Result<(), Refusal> {
        if is_bucket_name(&self.bucket) {
            return Ok(());
        }
        Err(Refusal::new(400, "InvalidBucketName", "The specified bucket is not valid."))
    }
}

fn is_bucket_name(text: &str) -> bool {
    (3..=63).contains(&text.len()) && text.bytes().all(is_bucket_byte)
}

fn is_bucket_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
}
