//! Display of the demo: a bar or lines for each running task, and the count of answers and calls.

use std::time::Duration;

use indicatif::ProgressBar;
use tokio::{task::JoinSet, time::interval};

use super::clients::Clients;
use crate::commands::{
    output::{Failure, print_line},
    progress::Progress,
};

/// Seconds between two lines of counts, if there is no footer.
const SECONDS_PER_LINE: u64 = 10;

/// Shows the running tasks until all have ended, while other clients call the gateway.
pub(super) async fn show(
    progress: &Progress,
    clients: &Clients,
    number: usize,
) -> Result<(), Failure> {
    let watches = clients.watch_all(progress);
    let footer = progress.footer();
    let background = clients.start_background(number);
    show_counts(footer.as_ref(), clients, watches).await?;
    drop(background);
    progress.finish();
    if let Some(footer) = footer {
        footer.finish_with_message(clients.summary());
    }
    Ok(())
}

/// Shows the counts each second in the footer, or every ten seconds as a line, until all watches
/// have ended.
async fn show_counts(
    footer: Option<&ProgressBar>,
    clients: &Clients,
    mut watches: JoinSet<()>,
) -> Result<(), Failure> {
    let mut tick = interval(Duration::from_secs(1));
    let mut seconds: u64 = 0;
    loop {
        tokio::select! {
            ended = watches.join_next() => match ended {
                Some(ended) => ended.map_err(Failure::message)?,
                None => return Ok(()),
            },
            _ = tick.tick() => {
                seconds += 1;
                if let Some(footer) = footer {
                    footer.set_message(clients.summary());
                } else if seconds.is_multiple_of(SECONDS_PER_LINE) {
                    print_line(clients.summary());
                }
            }
        }
    }
}
