//! Environment variables with the gateway's prefix: each of them must belong to a flag.

use std::ffi::OsString;

use clap::Command;

use super::error::ConfigError;

/// Prefix of the gateway's variables.
const PREFIX: &str = "AMISTORE_";

/// Name and value of an environment variable.
pub(super) type Variable = (String, OsString);

/// Returns the variables with the gateway's prefix.
pub(super) fn own_variables(all: impl Iterator<Item = (OsString, OsString)>) -> Vec<Variable> {
    let mut own = Vec::new();
    for (key, value) in all {
        if let Ok(key) = key.into_string()
            && key.starts_with(PREFIX)
        {
            own.push((key, value));
        }
    }
    own
}

/// Refuses variables that no flag reads: a misspelt name would have no effect and no message.
pub(super) fn check(command: &Command, variables: &[Variable]) -> Result<(), ConfigError> {
    let known = flag_variables(command);
    let mut problems = Vec::new();
    for (key, _) in variables {
        if !known.contains(&key.as_str()) && !is_service_link(key) {
            let known = known.join(", ");
            problems.push(format!("unknown environment variable {key}; expected one of {known}"));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(problems)) }
}

/// Variables of the flags of the command and its subcommands. Subcommands share some of them.
fn flag_variables(command: &Command) -> Vec<&str> {
    let mut variables = Vec::new();
    let commands = std::iter::once(command).chain(command.get_subcommands());
    for arg in commands.flat_map(Command::get_arguments) {
        if let Some(variable) = arg.get_env()
            && let Some(variable) = variable.to_str()
            && !variables.contains(&variable)
        {
            variables.push(variable);
        }
    }
    variables
}

/// Returns whether the variable is one that Kubernetes sets in each container for the services of
/// its namespace. A service called amistore-gateway becomes `AMISTORE_GATEWAY_SERVICE_HOST`,
/// `AMISTORE_GATEWAY_PORT_50051_TCP_ADDR` and the like (Kubernetes documentation, "Service",
/// "Environment variables").
fn is_service_link(key: &str) -> bool {
    const ENDS: [&str; 3] = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];
    const PARTS: [&str; 4] = ["_SERVICE_PORT_", "_TCP", "_UDP", "_SCTP"];
    ENDS.iter().any(|end| key.ends_with(end)) || PARTS.iter().any(|part| key.contains(part))
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn check_one(key: &str) -> Result<(), String> {
        let ttl = Arg::new("ttl").long("ttl").env("AMISTORE_TTL");
        let limit = Arg::new("limit").long("limit").env("AMISTORE_LIMIT");
        let serve = Command::new("serve").args([ttl, limit]);
        let command = Command::new("gateway").subcommand(serve);
        let environment = [(OsString::from(key), OsString::from("5s"))];
        let variables = own_variables(environment.into_iter());
        check(&command, &variables).map_err(|error| error.to_string())
    }

    #[test]
    fn an_unknown_variable_is_named_with_the_known_ones() {
        let error = check_one("AMISTORE_TTLL").expect_err("misspelt");
        assert!(error.contains("AMISTORE_TTLL") && error.contains("AMISTORE_TTL,"), "{error}");
        assert_eq!(check_one("AMISTORE_TTL"), Ok(()));
        assert_eq!(check_one("OTHER_TTLL"), Ok(()));
    }

    #[test]
    fn variables_of_a_kubernetes_service_are_ignored() {
        for link in [
            "AMISTORE_GATEWAY_SERVICE_HOST",
            "AMISTORE_GATEWAY_SERVICE_PORT",
            "AMISTORE_GATEWAY_SERVICE_PORT_GRPC",
            "AMISTORE_GATEWAY_PORT",
            "AMISTORE_GATEWAY_PORT_50051_TCP",
            "AMISTORE_GATEWAY_PORT_50051_TCP_ADDR",
        ] {
            assert!(check_one(link).is_ok(), "{link}");
        }
    }
}
