//! Environment variables with the gateway's prefix that no flag reads. They may be misspelt, or belong
//! to another program.

use clap::Command;

use super::environment::Variable;

/// A variable that has no effect, and the variable that may be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct UnknownVariable {
    pub(in crate::commands) name: String,
    pub(in crate::commands) nearest: String,
}

/// Words in the names that people try for the address to listen on.
const ADDRESS_WORDS: [&str; 5] = ["PORT", "HOST", "ADDR", "ADDRESS", "BIND"];

/// The variable of the address to listen on.
const LISTEN: &str = "AMISTORE_LISTEN";

/// Returns the variables that no flag reads and that are no link to a service of Kubernetes.
pub(super) fn unknown_variables(command: &Command, variables: &[Variable]) -> Vec<UnknownVariable> {
    let known = flag_variables(command);
    let services = service_prefixes(variables);
    let mut unknown = Vec::new();
    for (name, _) in variables {
        let is_link = services.iter().any(|service| is_link_to(service, name));
        if !known.contains(&name.as_str()) && !is_link {
            let nearest = nearest(&known, name).to_owned();
            unknown.push(UnknownVariable { name: name.clone(), nearest });
        }
    }
    unknown
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

fn nearest<'a>(known: &[&'a str], name: &str) -> &'a str {
    if name.split('_').any(|word| ADDRESS_WORDS.contains(&word)) {
        return LISTEN;
    }
    let distance = |known: &&&str| strsim::damerau_levenshtein(known, name);
    known.iter().min_by_key(distance).copied().unwrap_or(LISTEN)
}

/// Prefixes of the variables that Kubernetes sets in each container for the services of its namespace
/// (Kubernetes documentation, "Service", "Environment variables"). The value of `{SERVICE}_PORT` shows
/// that it is one: a URL such as `tcp://10.0.0.11:50051`.
fn service_prefixes(variables: &[Variable]) -> Vec<&str> {
    const SCHEMES: [&str; 3] = ["tcp://", "udp://", "sctp://"];
    let mut prefixes = Vec::new();
    for (name, value) in variables {
        if let Some(prefix) = name.strip_suffix("_PORT")
            && let Some(value) = value.to_str()
            && SCHEMES.iter().any(|scheme| value.starts_with(scheme))
        {
            prefixes.push(prefix);
        }
    }
    prefixes
}

/// Returns whether the variable is one of those that Kubernetes sets for a service: `_SERVICE_HOST`,
/// `_SERVICE_PORT`, `_SERVICE_PORT_GRPC`, `_PORT`, `_PORT_50051_TCP` and `_PORT_50051_TCP_ADDR`.
fn is_link_to(prefix: &str, name: &str) -> bool {
    let Some(rest) = name.strip_prefix(prefix) else { return false };
    if matches!(rest, "_PORT" | "_SERVICE_HOST" | "_SERVICE_PORT") {
        return true;
    }
    if rest.starts_with("_SERVICE_PORT_") {
        return true;
    }
    let Some(port) = rest.strip_prefix("_PORT_") else { return false };
    let parts: Vec<&str> = port.split('_').collect();
    match parts[..] {
        [number, "TCP" | "UDP" | "SCTP"]
        | [number, "TCP" | "UDP" | "SCTP", "PROTO" | "PORT" | "ADDR"] => {
            number.parse::<u16>().is_ok()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Arg;

    use super::*;

    fn unknown(variables: &[(&str, &str)]) -> Vec<String> {
        let mut serve = Command::new("serve");
        for (flag, variable) in [
            ("ttl", "AMISTORE_TTL"),
            ("log", "AMISTORE_LOG"),
            ("listen", "AMISTORE_LISTEN"),
            ("max-watches", "AMISTORE_MAX_WATCHES"),
        ] {
            serve = serve.arg(Arg::new(flag).long(flag).env(variable));
        }
        let command = Command::new("gateway").subcommand(serve);
        let mut given = Vec::new();
        for (name, value) in variables {
            given.push(((*name).to_owned(), OsString::from(value)));
        }
        let unknown = unknown_variables(&command, &given);
        unknown.into_iter().map(|UnknownVariable { name, nearest }| name + " " + &nearest).collect()
    }

    #[test]
    fn an_unknown_variable_is_named_with_the_nearest_known_one() {
        for (name, nearest) in [
            ("AMISTORE_TTLL", "AMISTORE_TTL"),
            ("AMISTORE_MAX_WATCH", "AMISTORE_MAX_WATCHES"),
            ("AMISTORE_PORT", "AMISTORE_LISTEN"),
            ("AMISTORE_LISTEN_PORT", "AMISTORE_LISTEN"),
            ("AMISTORE_BIND", "AMISTORE_LISTEN"),
            ("AMISTORE_LOG_LEVEL", "AMISTORE_LOG"),
        ] {
            assert_eq!(unknown(&[(name, "8080")]), [format!("{name} {nearest}")]);
        }
        assert!(unknown(&[("AMISTORE_TTL", "5s")]).is_empty());
    }

    #[test]
    fn the_links_of_a_kubernetes_service_are_known_by_the_url_in_one_of_them() {
        for service in ["AMISTORE", "AMISTORE_GATEWAY", "AMISTORE_LISTEN"] {
            let mut names = Vec::new();
            for end in [
                "_PORT",
                "_SERVICE_HOST",
                "_SERVICE_PORT",
                "_SERVICE_PORT_GRPC",
                "_PORT_50051_TCP",
                "_PORT_50051_TCP_PROTO",
                "_PORT_50051_TCP_PORT",
                "_PORT_50051_TCP_ADDR",
            ] {
                names.push(format!("{service}{end}"));
            }
            let mut links: Vec<_> = names.iter().map(|name| (name.as_str(), "50051")).collect();
            links[0].1 = "tcp://10.0.0.11:50051";
            assert!(unknown(&links).is_empty(), "{service}");
            links[0].1 = "50051";
            assert_eq!(unknown(&links).len(), links.len(), "{service}");
            let stray = format!("{service}_PORT_MAX");
            links[0].1 = "udp://[fd00::1]:53";
            links.push((&stray, "1"));
            assert_eq!(unknown(&links), [format!("{stray} AMISTORE_LISTEN")]);
        }
    }
}
