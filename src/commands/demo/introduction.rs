//! The text that the demo prints first: addresses, and commands to try in another terminal.

use std::net::SocketAddr;

use super::simulation::Simulation;
use crate::commands::{output::print_line, simulate};

const SERVICE: &str = "amistore.v1.StoreImageTaskService";

/// Prints the text.
pub(super) fn print(gateway: SocketAddr, ec2: SocketAddr, simulation: &Simulation) {
    print_line(format_args!(
        "The gateway serves at {gateway}, EC2 is simulated at {ec2}. In another terminal:"
    ));
    print_line("");
    print_grpcurl(gateway, simulation);
    print_line("");
    print_line("Start a task of your own with the AWS CLI, and watch it with the same gateway:");
    print_line("");
    print_aws_cli(ec2, simulation);
    print_line("");
}

fn print_grpcurl(gateway: SocketAddr, simulation: &Simulation) {
    print_line(format_args!("  grpcurl -plaintext {gateway} list"));
    print_line(format_args!("  grpcurl -plaintext {gateway} describe {SERVICE}"));
    print_line(format_args!(
        "  grpcurl -plaintext -d '{{\"page_size\": 5}}' {gateway} {SERVICE}/ListStoreImageTasks"
    ));
    if let Some(task) = simulation.running.first() {
        let request =
            format!(r#"{{"region": "{}", "image_id": "{}"}}"#, task.region, task.image_id);
        print_line(format_args!(
            "  grpcurl -plaintext -d '{request}' {gateway} {SERVICE}/WatchStoreImageTask"
        ));
    }
}

fn print_aws_cli(ec2: SocketAddr, simulation: &Simulation) {
    for (variable, value) in simulate::environment(ec2, &simulation.regions) {
        print_line(format_args!("  export {variable}={value}"));
    }
    let Some(region) = simulation.regions.first() else { return };
    if let Some(image) = simulation.ec2.images_without_task(region.as_str()).last() {
        print_line(format_args!(
            "  aws ec2 create-store-image-task --image-id {image} --bucket golden-images"
        ));
    }
}
