//! The accounts and regions that a request may name.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{ApiError, GatewayReason, fields, violations::Violations};
use crate::domain::{AccountName, DefaultRegion, Region, RegionSearch, Scope};

/// Maximum number of characters that an error quotes of an unknown account name.
const QUOTED_CHARACTERS: usize = 64;

/// Finds the scope that a request names, and refuses regions that are not allowed.
#[derive(Clone, Debug, Default)]
pub struct ScopePolicy {
    /// Region of a request that names none.
    pub default_region: DefaultRegion,
    /// The regions that requests may name beside the default region.
    pub allowed_regions: BTreeSet<Region>,
}

impl ScopePolicy {
    /// The scope that a request names by its `account` and `region`.
    ///
    /// # Errors
    /// `REGION_UNKNOWN` while the default region is searched for, if only it can say whether the region
    /// is allowed.
    pub(super) fn resolve(
        &self,
        violations: &mut Violations,
        account: &str,
        region: &str,
    ) -> Result<Option<Scope>, ApiError> {
        let account = resolve_account(violations, account);
        let region = match self.default_region.get() {
            RegionSearch::Ended(default) => {
                self.resolve_region(violations, default.as_ref(), region)
            }
            RegionSearch::Running => match self.allowed_regions.get(region) {
                Some(region) => Some(region.clone()),
                None => return Err(region_unknown()),
            },
        };
        let (Some(account), Some(region)) = (account, region) else { return Ok(None) };
        Ok(Some(Scope { account, region }))
    }

    fn resolve_region(
        &self,
        violations: &mut Violations,
        default: Option<&Region>,
        region: &str,
    ) -> Option<Region> {
        let region = match (default, region) {
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
        if default == Some(&region) || self.allowed_regions.contains(&region) {
            return Some(region);
        }
        let allowed = self.allowed_list(default);
        violations.add("region", format_args!("must be one of {allowed}, got {region}"));
        None
    }

    fn allowed_list(&self, default: Option<&Region>) -> String {
        let mut list = String::new();
        let regions: BTreeSet<_> = default.into_iter().chain(&self.allowed_regions).collect();
        for region in regions {
            let separator = if list.is_empty() { "" } else { ", " };
            // Writing to a String does not fail.
            let _ = write!(list, "{separator}{region}");
        }
        list
    }
}

fn region_unknown() -> ApiError {
    ApiError::gateway(
        GatewayReason::RegionUnknown,
        "the gateway has just started and still searches for its region; call again",
    )
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
