//! EC2's Query protocol: form-encoded parameters with numbered lists (EC2 developer guide, "Query
//! requests").

use std::collections::BTreeMap;

use super::refusal::Refusal;

/// A call with its parameters.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) access_key: String,
    pub(super) region: String,
    pub(super) action: String,
    parameters: BTreeMap<String, String>,
}

impl Call {
    /// Reads a call from its `Authorization` header, query string and body.
    pub(super) fn new(authorization: &str, query: &str, body: &[u8]) -> Self {
        let (access_key, region) = credential_scope(authorization);
        let mut parameters = BTreeMap::new();
        for part in [query.as_bytes(), body] {
            for (name, value) in form_urlencoded::parse(part) {
                parameters.insert(name.into_owned(), value.into_owned());
            }
        }
        let action = parameters.get("Action").cloned().unwrap_or_default();
        Self { access_key, region, action, parameters }
    }

    pub(super) fn dry_run(&self) -> Result<bool, Refusal> {
        match self.get("DryRun") {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                Err(Refusal::invalid_value(format!("Invalid value '{other}' for DryRun")))
            }
        }
    }

    /// The parameters without action and version, cut at 1,000 bytes.
    pub(super) fn parameters_in_short(&self) -> String {
        let mut parts = Vec::new();
        for (name, value) in &self.parameters {
            if !matches!(name.as_str(), "Action" | "Version") {
                parts.push(format!("{name}={value}"));
            }
        }
        let mut text = parts.join("&");
        text.truncate(text.floor_char_boundary(1000));
        text
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    pub(super) fn required(&self, name: &str) -> Result<String, Refusal> {
        match self.get(name) {
            Some(value) if !value.is_empty() => Ok(value.to_owned()),
            _ => Err(Refusal::missing_parameter(name)),
        }
    }

    /// The values of `Name.1`, `Name.2` and so on, in the order of their numbers.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let mut numbered: BTreeMap<u32, String> = BTreeMap::new();
        for (key, value) in &self.parameters {
            if let Some((base, number)) = key.rsplit_once('.')
                && base == name
                && let Ok(number) = number.parse()
            {
                numbered.insert(number, value.clone());
            }
        }
        numbered.into_values().collect()
    }
}

/// The access key and the region of a signature, which has the form `AWS4-HMAC-SHA256
/// Credential=KEY/DATE/REGION/ec2/aws4_request, …`. Both are empty if there is no signature.
fn credential_scope(authorization: &str) -> (String, String) {
    let Some((_, rest)) = authorization.split_once("Credential=") else {
        return (String::new(), String::new());
    };
    let mut parts = rest.split([',', ' ', '/']);
    let access_key = parts.next().unwrap_or_default();
    let region = parts.nth(1).unwrap_or_default();
    (access_key.to_owned(), region.to_owned())
}
