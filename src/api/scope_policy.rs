//! The accounts and regions that a request may name.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{fields, violations::Violations};
use crate::domain::{AccountName, Region, Scope};

/// Maximum number of characters that an error quotes of an unknown account name.
const QUOTED_CHARACTERS: usize = 64;

/// Finds the scope that a request names, and refuses regions that are not allowed.
#[derive(Clone, Debug, Default)]
pub struct ScopePolicy {
    /// Region of a request that names none.
    pub default_region: Option<Region>,
    /// The regions that requests may name beside the default region.
    pub allowed_regions: BTreeSet<Region>,
}

impl ScopePolicy {
    /// The scope that a request names by its `account` and `region`.
    pub(super) fn resolve(
        &self,
        violations: &mut Violations,
        account: &str,
        region: &str,
    ) -> Option<Scope> {
        let account = resolve_account(violations, account);
        let region = self.resolve_region(violations, region);
        Some(Scope { account: account?, region: region? })
    }

    fn resolve_region(&self, violations: &mut Violations, region: &str) -> Option<Region> {
        let region = match (&self.default_region, region) {
            (Some(default), "") => default.clone(),
            (None, "") => {
                violations.add(
                    "region",
                    "must name a region, such as \"us-east-1\": the gateway has no default region",
                );
                return None;
            }
            (_, given) => fields::name(violations, "region", given, Region::parse)?,
        };
        if self.default_region.as_ref() == Some(&region) || self.allowed_regions.contains(&region) {
            return Some(region);
        }
        let allowed = self.allowed_list();
        violations.add("region", format_args!("must be one of {allowed}, got {region}"));
        None
    }

    fn allowed_list(&self) -> String {
        let mut list = String::new();
        let regions: BTreeSet<_> =
            self.default_region.iter().chain(&self.allowed_regions).collect();
        for region in regions {
            let separator = if list.is_empty() { "" } else { ", " };
            // Writing to a String does not fail.
            let _ = write!(list, "{separator}{region}");
        }
        list
    }
}

fn resolve_account(violations: &mut Violations, account: &str) -> Option<AccountName> {
    if matches!(account, "" | AccountName::DEFAULT) {
        return Some(AccountName::default());
    }
    let quoted: String = account.chars().take(QUOTED_CHARACTERS).collect();
    let default = AccountName::DEFAULT;
    violations.add(
        "account",
        format_args!("must be {default:?}, the one configured account, or empty, got {quoted:?}"),
    );
    None
}
