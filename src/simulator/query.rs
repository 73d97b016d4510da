//! EC2's Query protocol: form-encoded parameters with numbered lists (EC2 developer guide, "Query
//! requests"; names from botocore's service model 2016-11-15).

use std::collections::BTreeMap;

use super::answer::Refusal;

/// A call as it came.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) access_key: String,
    pub(super) region: String,
    pub(super) action: String,
    parameters: BTreeMap<String, String>,
}

/// What a call asks for.
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
    pub(super) max_results: Option<usize>,
    pub(super) next_token: Option<String>,
}

/// `CreateStoreImageTask`
#[derive(Debug)]
pub(super) struct Create {
    pub(super) image_id: String,
    pub(super) bucket: String,
}

impl Call {
    /// Out of the signature's credential scope (`AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/ec2/
    /// aws4_request, …`) and the parameters of query string and body.
    pub(super) fn new(authorization: Option<&str>, query: &str, body: &[u8]) -> Self {
        let mut scope = authorization
            .and_then(|header| header.split_once("Credential="))
            .map_or("", |(_, rest)| rest.split([',', ' ']).next().unwrap_or_default())
            .split('/');
        let access_key = scope.next().unwrap_or_default().to_owned();
        let region = scope.nth(1).unwrap_or_default().to_owned();
        let parameters: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes())
            .chain(form_urlencoded::parse(body))
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        let action = parameters.get("Action").cloned().unwrap_or_default();
        Self { access_key, region, action, parameters }
    }

    pub(super) fn dry_run(&self) -> Result<bool, Refusal> {
        match self.get("DryRun") {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                Err(Refusal::invalid_value(&format!("Invalid value '{other}' for DryRun")))
            }
        }
    }

    /// The parameters in short.
    pub(super) fn parameters_in_short(&self) -> String {
        let said = self
            .parameters
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "Action" | "Version"))
            .map(|(name, value)| format!("{name}={value}"));
        let mut text = said.collect::<Vec<_>>().join("&");
        text.truncate(text.floor_char_boundary(1000));
        text
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// `Name.1`, `Name.2`, … by number.
    fn list(&self, name: &str) -> Vec<String> {
        let mut numbered: Vec<(u32, String)> = self
            .parameters
            .iter()
            .filter_map(|(key, value)| {
                let number = key.strip_prefix(name)?.strip_prefix('.')?.parse().ok()?;
                Some((number, value.clone()))
            })
            .collect();
        numbered.sort_unstable();
        numbered.into_iter().map(|(_, value)| value).collect()
    }
}

impl Action {
    pub(super) fn parse(call: &Call) -> Result<Self, Refusal> {
        match call.action.as_str() {
            "DescribeStoreImageTasks" => Describe::parse(call).map(Self::Describe),
            "CreateStoreImageTask" => Create::parse(call).map(Self::Create),
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
            max_results: None,
            next_token: call.get("NextToken").map(str::to_owned),
        };
        if let Some(text) = call.get("MaxResults") {
            let number = text.parse().ok().filter(|number| (1..=200).contains(number));
            describe.max_results = Some(number.ok_or_else(|| {
                Refusal::invalid_value(&format!(
                    "Value ( {text} ) for parameter maxResults is invalid. Expecting a value between 1 and 200."
                ))
            })?);
        }
        for number in 1.. {
            let Some(name) = call.get(&format!("Filter.{number}.Name")) else { break };
            let values = call.list(&format!("Filter.{number}.Value"));
            match name {
                "task-state" => describe.states.extend(values),
                "bucket" => describe.buckets.extend(values),
                other => {
                    return Err(Refusal::invalid_value(&format!(
                        "The filter '{other}' is invalid"
                    )));
                }
            }
        }
        if !describe.image_ids.is_empty()
            && (describe.max_results.is_some() || describe.next_token.is_some())
        {
            return Err(Refusal::new(
                400,
                "InvalidParameterCombination",
                "The parameter imageIds cannot be used with the parameter maxResults or nextToken",
            ));
        }
        if describe.image_ids.len() > 20 {
            return Err(Refusal::invalid_value("At most 20 image IDs can be specified"));
        }
        Ok(describe)
    }
}

impl Create {
    fn parse(call: &Call) -> Result<Self, Refusal> {
        let required = |name: &str| {
            let value = call.get(name).filter(|value| !value.is_empty());
            value.map(str::to_owned).ok_or_else(|| {
                Refusal::new(
                    400,
                    "MissingParameter",
                    format!("The request must contain the parameter {name}"),
                )
            })
        };
        Ok(Self { image_id: required("ImageId")?, bucket: required("Bucket")? })
    }
}
