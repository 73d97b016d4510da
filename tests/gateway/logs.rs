//! Log lines: one when trouble begins and one when it is over, however many requests it concerns.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::{join_all, try_join_all};
use serde_json::{Value, json};
use tonic::Code;
use tracing::subscriber::DefaultGuard;

use crate::support::{Setup, Task, image, watch_of};

const HOUR: Duration = Duration::from_secs(3600);

/// The log of a gateway at `info` and above. The whole gateway runs on the thread of its test.
struct Log {
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
    fn capture() -> Self {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_max_level(tracing::Level::INFO)
            .with_writer(move || writer.clone())
            .finish();
        Self { written, _capture: tracing::subscriber::set_default(subscriber) }
    }

    /// The fields of the lines of this level, in order.
    fn lines(&self, level: &str) -> Vec<Value> {
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
        assert_eq!(watch.expect_err("no room").code(), Code::ResourceExhausted);
    }
    assert_eq!(log.lines("WARN"), [json!({ "message": "too many watches are open", "limit": 3 })]);
    let before = log.lines("INFO").len();
    drop(open);
    rig.run_for(Duration::from_secs(10)).await;
    for _ in 0..3 {
        rig.until(client.watch(watch_of(&image(1)))).await.expect("room again");
    }
    assert_eq!(
        log.lines("INFO")[before..],
        [json!({ "message": "watches are admitted again", "limit": 3 })]
    );
    assert_eq!(log.lines("WARN").len(), 1);
}
