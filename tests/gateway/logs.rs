//! Log lines: one when trouble begins and one when it ends, however many requests it affects.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use amistore_gateway::simulator::Fault;
use futures_util::future::{join_all, try_join_all};
use serde_json::{Value, json};
use tonic::Code;
use tracing::{Dispatch, Level, subscriber::DefaultGuard};

use crate::support::{Rig, Setup, Task, all, at_most, finished, image, watch_of};

const HOUR: Duration = Duration::from_secs(3600);

/// A second subscriber, which no thread uses. With only one subscriber, tracing decides whether an
/// event is off by the first thread that logs it. Threads of other tests have no subscriber.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));

/// The log of a gateway. The whole gateway runs on the thread of its test.
pub(crate) struct Log {
    written: Written,
    _capture: DefaultGuard,
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(crate) fn capture() -> Self {
        Self::capture_from(Level::INFO)
    }

    /// The log of a gateway at this level and above.
    pub(crate) fn capture_from(level: Level) -> Self {
        LazyLock::force(&SECOND);
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_max_level(level)
            .with_writer(move || writer.clone())
            .finish();
        Self { written, _capture: tracing::subscriber::set_default(subscriber) }
    }

    /// The fields of the lines of this level, in order.
    pub(crate) fn lines(&self, level: &str) -> Vec<Value> {
        let written = self.written.0.lock().expect("no panic").clone();
        let mut lines = Vec::new();
        for line in String::from_utf8(written).expect("UTF-8").lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let target = line["target"].as_str().expect("a target");
            if line["level"] == level && target.starts_with("amistore_gateway") {
                lines.push(line["fields"].clone());
            }
        }
        lines
    }
}

#[tokio::test]
async fn the_bound_of_watches_logs_when_it_begins_to_refuse_and_when_it_admits_again() {
    let log = Log::capture();
    let mut setup = Setup::default();
    setup.gateway.watch.max_watches = 3;
    let rig = setup.start().await;
    rig.add([Task::running(&image(1), HOUR)]);
    let client = rig.client();
    let open = rig.until(try_join_all((0..3).map(|_| client.watch(watch_of(&image(1)))))).await;
    let open = open.expect("there is room for three");
    assert!(log.lines("WARN").is_empty(), "{:?}", log.lines("WARN"));
    let refused = rig.until(join_all((0..20).map(|_| client.watch(watch_of(&image(1)))))).await;
    for watch in refused {
        assert_eq!(watch.expect_err("no room").code(), Code::Unavailable);
    }
    let reached = "a bound is reached; requests are refused";
    assert_eq!(log.lines("WARN"), [json!({ "message": reached, "bound": "watches", "limit": 3 })]);
    let before = log.lines("INFO").len();
    drop(open);
    rig.run_for(Duration::from_secs(10)).await;
    for _ in 0..3 {
        rig.until(client.watch(watch_of(&image(1)))).await.expect("room again");
    }
    assert_eq!(
        log.lines("INFO")[before..],
        [json!({ "message": "a bound is no longer reached", "bound": "watches", "limit": 3 })]
    );
    assert_eq!(log.lines("WARN").len(), 1);
}

#[tokio::test]
async fn a_gateway_whose_every_call_is_denied_logs_that_once_and_once_that_ec2_answers_again() {
    let log = Log::capture();
    let rig = Rig::with_tasks(finished(3)).await;
    let client = rig.client();
    let before = log.lines("INFO").len();
    rig.simulator.set_fault(Some(Fault::error(403, "UnauthorizedOperation")));
    for _ in 0..30 {
        let denied = rig.until(join_all((0..10).map(|_| client.list(all())))).await;
        for list in denied {
            assert_eq!(list.expect_err("denied").code(), Code::PermissionDenied);
        }
        // By then no refusal is remembered, so the next request makes a call.
        rig.run_for(Duration::from_secs(2)).await;
    }
    assert_eq!(rig.calls(), 30);
    let warnings = log.lines("WARN");
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert_eq!(warnings[0]["message"], "EC2 cannot be asked");
    assert_eq!(warnings[0]["scope"], "default/us-east-1");
    assert_eq!(warnings[0]["kind"], "denied");
    assert_eq!(warnings[0]["code"], "UnauthorizedOperation");
    assert!(warnings[0]["cause"].is_string(), "{warnings:#?}");
    assert_eq!(log.lines("INFO").len(), before, "{:#?}", log.lines("INFO"));

    rig.simulator.set_fault(None);
    for _ in 0..3 {
        rig.until(client.list(at_most(0, all()))).await.expect("answered");
    }
    let news = &log.lines("INFO")[before..];
    assert_eq!(news.len(), 1, "{news:#?}");
    assert_eq!(news[0]["message"], "EC2 answers again");
    assert_eq!(news[0]["scope"], "default/us-east-1");
    assert!(news[0]["lasted_seconds"].is_f64(), "{news:#?}");
    assert_eq!(log.lines("WARN").len(), 1);
}

/// The messages of the first table of docs/operations.md.
fn documented_messages() -> BTreeSet<String> {
    let document = include_str!("../../docs/operations.md");
    let mut messages = BTreeSet::new();
    for line in document.lines().skip_while(|line| !line.starts_with("| change |")).skip(2) {
        if !line.starts_with('|') {
            break;
        }
        let message = line.split('|').nth(3).expect("a message").trim();
        messages.insert(message.trim_matches('`').to_owned());
    }
    messages
}

/// The messages at `info` and above in a source file. A message is the last string of its macro.
fn messages_in(source: &str, messages: &mut BTreeSet<String>) {
    for level in ["info!(", "warn!(", "error!("] {
        for (at, _) in source.match_indices(level) {
            let (event, _) = source[at..].split_once(");").expect("the end of the macro");
            messages.insert(event.rsplit('"').nth(1).expect("a message").to_owned());
        }
    }
}

fn read_sources(folder: &Path, messages: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        // The demo and the simulator are no part of a gateway that an operator runs.
        if path.ends_with("src/simulator") || path.ends_with("src/commands/demo") {
            continue;
        }
        if path.is_dir() {
            read_sources(&path, messages);
        } else {
            messages_in(&fs::read_to_string(&path).expect("a source file"), messages);
        }
    }
}

#[test]
fn the_documented_log_lines_are_those_of_the_code() {
    let mut messages = BTreeSet::new();
    read_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut messages);
    // A bug of the planner, which the document covers by "any other line at `error`".
    messages.retain(|message| !message.starts_with("the plan has no call"));
    assert_eq!(messages, documented_messages());
}
