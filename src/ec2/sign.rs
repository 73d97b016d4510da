//! What the result of a call says about its scope.

use crate::domain::{AttemptEnd, DescribeResponse, DescribeTarget, ErrorKind, UpstreamError};

/// What the result of a call to EC2 says about whether EC2 can be asked.
pub(super) fn sign_of<'a>(
    target: &DescribeTarget,
    result: &'a Result<DescribeResponse, UpstreamError>,
) -> AttemptEnd<'a> {
    match result {
        // On a look-up, AuthFailure may refuse just one image of another account.
        Err(error) if may_refuse_an_image(target, error) => AttemptEnd::Unclear,
        Err(error) if error.kind.is_transient() || error.kind.concerns_the_scope() => {
            AttemptEnd::Failed(error)
        }
        // A refusal with an unknown code may come from a proxy on the way.
        Err(error) if error.kind == ErrorKind::UnknownRefusal => AttemptEnd::Unclear,
        Ok(_) | Err(_) => AttemptEnd::Answered,
    }
}

/// Whether EC2 may mean an image and not the scope (public reports of "not authorized for image":
/// cloudquery issue 9406, toil issue 3512).
fn may_refuse_an_image(target: &DescribeTarget, error: &UpstreamError) -> bool {
    matches!(target, DescribeTarget::Images(_)) && error.is_auth_failure()
}
