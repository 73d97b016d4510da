//! The environment variables that the AWS SDK reads, checked at the start: the SDK panics at a key with
//! a line end, and takes a region with one for a host name.

use std::{env, ffi::OsString};

use http::Uri;

use super::start_error::StartError;
use crate::domain::Region;

/// Variables whose value is taken as it is, with the blanks and line ends that a file or a Kubernetes
/// secret may have left. The SDK itself trims `AWS_SESSION_TOKEN`.
const VERBATIM: [&str; 23] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "AWS_EC2_METADATA_DISABLED",
];

/// Variables that are URLs with http or https.
const URLS: [&str; 4] = [
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_EC2",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
];

/// Variables that name the region, in the SDK's order.
const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

/// The environment of the process, or that of a test.
pub(super) struct Environment(fn(&str) -> Option<OsString>);

impl Environment {
    pub(super) const OF_PROCESS: Self = Self(|name| env::var_os(name));

    /// Checks the variables that the SDK takes as they are.
    ///
    /// # Errors
    /// All bad variables, without their values: these may be secrets.
    pub(super) fn check(&self) -> Result<(), StartError> {
        let mut problems = Vec::new();
        for name in VERBATIM {
            if let Some(value) = (self.0)(name)
                && let Some(problem) = problem_of_text(&value)
            {
                problems.push(format!("{name}: {problem}"));
            }
        }
        for name in URLS {
            let Some(value) = (self.0)(name) else { continue };
            if let Some(problem) = problem_of_text(&value) {
                problems.push(format!("{name}: {problem}"));
            } else if !value.is_empty() && !value.to_str().is_some_and(is_url) {
                problems.push(format!("{name}: expected a URL with http or https and a host"));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(StartError::Variables(problems)) }
    }

    /// The region that the environment names. Blanks around it are dropped.
    ///
    /// # Errors
    /// If the text is no region.
    pub(super) fn region(&self) -> Result<Option<Region>, StartError> {
        for name in REGIONS {
            let value = (self.0)(name).unwrap_or_default();
            let Some(text) = value.to_str() else {
                return Err(StartError::Variables(vec![format!("{name}: expected UTF-8")]));
            };
            if !text.trim().is_empty() {
                return parse_region(text, name).map(Some);
            }
        }
        Ok(None)
    }
}

/// Parses a region, and names its origin if it is none.
pub(super) fn parse_region(text: &str, origin: &'static str) -> Result<Region, StartError> {
    Region::parse(text.trim()).map_err(|error| StartError::Region { origin, error })
}

fn problem_of_text(value: &OsString) -> Option<&'static str> {
    let Some(text) = value.to_str() else { return Some("expected UTF-8") };
    if text.ends_with(['\n', '\r']) {
        return Some("expected no line end after the value");
    }
    if text.trim() != text {
        return Some("expected no blanks around the value");
    }
    if text.chars().any(char::is_control) {
        return Some("expected no control characters");
    }
    None
}

fn is_url(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    has_host && matches!(uri.scheme_str(), Some("http" | "https"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(environment: fn(&str) -> Option<OsString>) -> Vec<String> {
        match Environment(environment).check() {
            Ok(()) => Vec::new(),
            Err(StartError::Variables(problems)) => problems,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn line_ends_and_blanks_are_refused_without_the_value() {
        let found = problems(|name| match name {
            "AWS_ACCESS_KEY_ID" => Some("AKID\n".into()),
            "AWS_SECRET_ACCESS_KEY" => Some(" secret".into()),
            "AWS_PROFILE" => Some("a\tb".into()),
            "AWS_ENDPOINT_URL_EC2" => Some("http://127.0.0.1:1\r\n".into()),
            "AWS_ENDPOINT_URL" => Some("127.0.0.1:1".into()),
            _ => None,
        });
        assert_eq!(
            found,
            [
                "AWS_ACCESS_KEY_ID: expected no line end after the value",
                "AWS_SECRET_ACCESS_KEY: expected no blanks around the value",
                "AWS_PROFILE: expected no control characters",
                "AWS_ENDPOINT_URL: expected a URL with http or https and a host",
                "AWS_ENDPOINT_URL_EC2: expected no line end after the value",
            ]
        );
    }

    #[test]
    fn good_and_empty_variables_pass() {
        let found = problems(|name| match name {
            "AWS_ACCESS_KEY_ID" => Some("AKID".into()),
            "AWS_ENDPOINT_URL_EC2" => Some("https://ec2.us-east-1.amazonaws.com".into()),
            "HTTPS_PROXY" => Some("proxy:3128".into()),
            "NO_PROXY" => Some("localhost, .internal".into()),
            _ => Some(OsString::new()),
        });
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn a_region_is_trimmed_or_refused() {
        let region = |environment| Environment(environment).region();
        let found = region(|name| (name == "AWS_REGION").then(|| "us-east-1\n".into()));
        assert_eq!(found.expect("valid").expect("a region").as_str(), "us-east-1");
        let found = region(|name| (name == "AWS_DEFAULT_REGION").then(|| "eu-west-1".into()));
        assert_eq!(found.expect("valid").expect("a region").as_str(), "eu-west-1");
        assert_eq!(region(|_| Some(" ".into())).expect("valid"), None);
        for bad in [|_: &str| Some("us-east-1a".into()), |_: &str| Some("us east 1".into())] {
            let error = region(bad).expect_err("no region").to_string();
            assert!(error.contains("AWS_REGION") && error.contains("us-east-1"), "{error}");
        }
    }
}
