//! The load: Debian's h2load (package nghttp2-client), a process of its own, so that what it costs is
//! not counted to the servers that it measures. It asks one question over and over.

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
/// The prefix of a gRPC message: a flag and four bytes of length (gRPC over HTTP2).
const PREFIX: usize = 5;

/// What one round came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Answers a second.
    pub(crate) rate: f64,
    /// The latency that one answer in a hundred is above.
    pub(crate) p99: Duration,
    /// CPU time of this process for an answer; the load is not in it.
    pub(crate) cpu: Duration,
}

/// One question, as a file of the bytes that are sent.
pub(crate) struct Load {
    question: PathBuf,
    log: PathBuf,
    /// Bytes of the answer.
    answer: usize,
}

impl Load {
    /// Asks this, and expects answers of so many bytes.
    pub(crate) fn new(question: &[u8], answer: usize) -> io::Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let load =
            Self { question: folder.join("question"), log: folder.join("latencies"), answer };
        let length = u32::try_from(question.len()).map_err(io::Error::other)?;
        let message = [&[0], length.to_be_bytes().as_slice(), question].concat();
        fs::write(&load.question, message)?;
        Ok(load)
    }

    /// Asks this server for some seconds. Blocks.
    pub(crate) fn round(&self, server: SocketAddr) -> Result<Round, Box<dyn Error + Send + Sync>> {
        // It appends.
        if self.log.exists() {
            fs::remove_file(&self.log)?;
        }
        let before = cpu_time()?;
        let said = Command::new("h2load")
            .arg(format!("--clients={CONNECTIONS}"))
            .arg(format!("--max-concurrent-streams={IN_FLIGHT}"))
            .arg(format!("--duration={SECONDS}"))
            .args(["--header=content-type: application/grpc", "--header=te: trailers"])
            .arg(format!("--data={}", self.question.display()))
            .arg(format!("--log-file={}", self.log.display()))
            .arg(format!("http://{server}{LIST}"))
            .output()
            .map_err(|error| format!("h2load of Debian's nghttp2-client is needed: {error}"))?;
        let cpu = cpu_time()?.saturating_sub(before);
        let said = String::from_utf8(said.stdout)?;
        let mut latencies = Vec::new();
        for line in fs::read_to_string(&self.log)?.lines() {
            let mut columns = line.split('\t').skip(1);
            let (Some("200"), Some(micros)) = (columns.next(), columns.next()) else {
                return Err(format!("not answered: {line}").into());
            };
            latencies.push(Duration::from_micros(micros.parse()?));
        }
        self.check(&said, latencies.len())?;
        latencies.sort_unstable();
        let answers = u32::try_from(latencies.len())?;
        Ok(Round {
            rate: f64::from(answers) / f64::from(SECONDS),
            p99: latencies[latencies.len() * 99 / 100],
            cpu: cpu / answers,
        })
    }

    /// An error would have status 200 and no message: the bytes tell that all were answers, but for
    /// those that were under way at the end.
    fn check(&self, said: &str, answers: usize) -> Result<(), Box<dyn Error + Send + Sync>> {
        let data = said.lines().find(|line| line.starts_with("traffic:"));
        let data = data.and_then(|line| line.rsplit_once('(')?.1.split_once(')')?.0.parse().ok());
        let bytes: usize = data.ok_or_else(|| format!("no traffic: {said}"))?;
        let (least, most) = (answers, answers + CONNECTIONS * IN_FLIGHT);
        let each = self.answer + PREFIX;
        if answers == 0 || bytes < least * each || bytes > most * each {
            return Err(format!("{bytes} bytes for {answers} answers of {each}: {said}").into());
        }
        Ok(())
    }
}

/// What this process has used so far, in user and system (proc(5), /proc/self/stat, 14 and 15, in
/// ticks of 10 ms).
fn cpu_time() -> Result<Duration, Box<dyn Error + Send + Sync>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("the name of the process is not closed")?;
    let ticks: u64 =
        fields.split(' ').skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
    Ok(Duration::from_millis(10 * ticks))
}
