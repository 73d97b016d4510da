//! The load: Debian's h2load (package nghttp2-client), which repeats one request. It is a process of
//! its own, so that its CPU time does not count as the server's.

use std::{
    error::Error,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 8;
const SECONDS: u32 = 1;
const LIST: &str = "/amistore.v1.StoreImageTaskService/ListStoreImageTasks";
/// Length of the prefix of a gRPC message: a flag and four bytes of length (gRPC over HTTP2).
const PREFIX: usize = 5;

/// The results of one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Answers per second.
    pub(crate) rate: f64,
    /// The latency that one answer in a hundred exceeds.
    pub(crate) p99: Duration,
    /// CPU time of this process per answer, without the load.
    pub(crate) cpu: Duration,
}

/// A load that repeats one request.
pub(crate) struct Load {
    /// The file with the bytes of the request.
    request: PathBuf,
    /// The file that h2load writes its latencies to.
    log: PathBuf,
    /// Number of bytes of the answer.
    answer: usize,
    /// A header that is sent beside those of every gRPC request.
    header: Option<&'static str>,
}

impl Load {
    /// Creates a load of this request, with a further header if one is given, that expects answers of
    /// this number of bytes.
    pub(crate) fn new(
        request: &[u8],
        header: Option<&'static str>,
        answer: usize,
    ) -> io::Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (request_file, log) = (folder.join("request"), folder.join("latencies"));
        let load = Self { request: request_file, log, answer, header };
        let length = u32::try_from(request.len()).map_err(io::Error::other)?;
        let message = [&[0], length.to_be_bytes().as_slice(), request].concat();
        fs::write(&load.request, message)?;
        Ok(load)
    }

    /// Sends requests to a server for [`SECONDS`]. Blocks.
    pub(crate) fn round(&self, server: SocketAddr) -> Result<Round, Box<dyn Error + Send + Sync>> {
        // h2load appends to the file.
        if self.log.exists() {
            fs::remove_file(&self.log)?;
        }
        let before = cpu_time()?;
        let output = Command::new("h2load")
            .arg(format!("--clients={CONNECTIONS}"))
            .arg(format!("--max-concurrent-streams={IN_FLIGHT}"))
            .arg(format!("--duration={SECONDS}"))
            .args(["--header=content-type: application/grpc", "--header=te: trailers"])
            .args(self.header.map(|header| format!("--header={header}")))
            .arg(format!("--data={}", self.request.display()))
            .arg(format!("--log-file={}", self.log.display()))
            .arg(format!("http://{server}{LIST}"))
            .output()
            .map_err(|error| format!("cannot run h2load (Debian: nghttp2-client): {error}"))?;
        let cpu = cpu_time()?.saturating_sub(before);
        let output = String::from_utf8(output.stdout)?;
        let mut latencies = Vec::new();
        for line in fs::read_to_string(&self.log)?.lines() {
            let mut columns = line.split('\t').skip(1);
            let (Some("200"), Some(micros)) = (columns.next(), columns.next()) else {
                return Err(
                    format!("expected status 200 and a latency in the log, found: {line}").into()
                );
            };
            latencies.push(Duration::from_micros(micros.parse()?));
        }
        self.check(&output, latencies.len())?;
        latencies.sort_unstable();
        let answers = u32::try_from(latencies.len())?;
        Ok(Round {
            rate: f64::from(answers) / f64::from(SECONDS),
            p99: latencies[latencies.len() * 99 / 100],
            cpu: cpu / answers,
        })
    }

    /// Checks that all responses were answers. A gRPC error also has HTTP status 200, but no
    /// message, so the check counts bytes. Requests that were still running at the end may add
    /// bytes.
    fn check(&self, output: &str, answers: usize) -> Result<(), Box<dyn Error + Send + Sync>> {
        let data = output.lines().find(|line| line.starts_with("traffic:"));
        let data = data.and_then(|line| line.rsplit_once('(')?.1.split_once(')')?.0.parse().ok());
        let bytes: usize =
            data.ok_or_else(|| format!("expected a line about traffic, found: {output}"))?;
        let (least, most) = (answers, answers + CONNECTIONS * IN_FLIGHT);
        let each = self.answer + PREFIX;
        if answers == 0 || bytes < least * each || bytes > most * each {
            return Err(format!(
                "expected {answers} answers of {each} bytes, found {bytes} bytes: {output}"
            )
            .into());
        }
        Ok(())
    }
}

/// CPU time of this process so far, user and system (proc(5): fields 14 and 15 of /proc/self/stat, in
/// ticks of 10 ms).
fn cpu_time() -> Result<Duration, Box<dyn Error + Send + Sync>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat
        .rsplit_once(") ")
        .ok_or("expected the process name in parentheses in /proc/self/stat")?;
    let ticks: u64 =
        fields.split(' ').skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
    Ok(Duration::from_millis(10 * ticks))
}
