//! The errors with which EC2 refuses calls: their codes and messages.

/// An EC2 error.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
    blames_an_image: bool,
}

impl Refusal {
    pub(super) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), blames_an_image: false }
    }

    pub(super) fn invalid_value(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidParameterValue", message)
    }

    pub(super) fn missing_parameter(name: &str) -> Self {
        Self::new(400, "MissingParameter", format!("The request must contain the parameter {name}"))
    }

    pub(super) fn missing_authentication() -> Self {
        Self::new(
            403,
            "MissingAuthenticationToken",
            "The request must contain either a valid (registered) AWS access key ID or X.509 certificate.",
        )
    }

    pub(super) fn region_not_enabled(region: &str) -> Self {
        Self::new(
            401,
            "AuthFailure",
            format!("The simulator does not answer for the region '{region}'"),
        )
    }

    /// The refusal of one image with this code.
    pub(super) fn of_image(code: &str, image_id: &str) -> Self {
        let message = match code {
            "AuthFailure" => format!("Not authorized for images: [{image_id}]"),
            "InvalidAMIID.Malformed" => {
                format!("Invalid id: \"{image_id}\" (expecting \"ami-...\")")
            }
            "InvalidAMIID.NotFound" => format!("The image id '[{image_id}]' does not exist"),
            _ => format!("The image id '[{image_id}]' is refused"),
        };
        Self { blames_an_image: true, ..Self::new(400, code, message) }
    }

    pub(super) fn dry_run() -> Self {
        Self::new(412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    }

    /// The same error with a message that does not name the image.
    pub(super) fn muted(mut self) -> Self {
        if self.blames_an_image {
            "An image ID is not right".clone_into(&mut self.message);
        }
        self
    }
}
