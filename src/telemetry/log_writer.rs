//! Writes log lines from a thread of its own, so that a reader of standard error that stands still
//! never holds up the gateway.
//!
//! The crate tracing-appender does the same. It needs a feature of the crate time with which cargo
//! compiles the EC2 SDK again.

use std::{
    collections::VecDeque,
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// 1,024 lines: the most that wait for the reader. Further lines are lost, and counted.
const MAX_WAITING: usize = 1 << 10;

/// 1 s: the time that the last lines have to be written when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes lines for the thread. All clones share its queue.
#[derive(Clone, Debug, Default)]
pub(super) struct LogWriter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    is_writing: bool,
    lost: u64,
}

impl LogWriter {
    /// Starts the thread, which writes to `output` until the process ends.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let writer = Self::default();
        let of_thread = writer.clone();
        thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || of_thread.write_all_lines(output))?;
        Ok(writer)
    }

    fn write_all_lines(&self, mut output: impl Write) {
        loop {
            let (line, lost) = self.next();
            // A line that cannot be written is lost. There is no other place to say so.
            let _ = output.write_all(&line);
            self.written();
            if lost > 0 {
                tracing::warn!(lost, "log lines were lost, since standard error was not read");
            }
        }
    }

    /// Waits for a line, and returns it with the number of those that were lost.
    fn next(&self) -> (Vec<u8>, u64) {
        let mut queue = self.queue();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.is_writing = true;
                return (line, mem::take(&mut queue.lost));
            }
            queue = self.0.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn written(&self) {
        self.queue().is_writing = false;
        self.0.changed.notify_all();
    }

    fn flush_all(&self) {
        let is_pending = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
        let _ = self.0.changed.wait_timeout_while(self.queue(), FLUSH_TIMEOUT, is_pending);
    }

    /// The queue stays valid if a holder of its lock panics, so poisoning is ignored.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes one line a call, as tracing-subscriber writes them. It never waits.
impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.queue();
        if queue.lines.len() < MAX_WAITING {
            queue.lines.push_back(line.to_vec());
        } else {
            queue.lost += 1;
        }
        drop(queue);
        self.0.changed.notify_all();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until all lines are written when it is dropped, at most [`FLUSH_TIMEOUT`].
#[derive(Debug)]
#[must_use = "the last lines are lost without it"]
pub struct FlushOnDrop(pub(super) LogWriter);

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        self.0.flush_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// An output whose reader takes a line when the test does.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            match self.0.send(line.to_vec()) {
                Ok(()) => Ok(line.len()),
                Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Writes a line at once, as tracing-subscriber does.
    fn print(writer: &LogWriter, number: usize) {
        writer.clone().write_all(format!("{number}\n").as_bytes()).expect("never fails");
    }

    fn piped() -> (LogWriter, Receiver<Vec<u8>>) {
        let (sender, reader) = sync_channel(0);
        (LogWriter::start(Pipe(sender)).expect("a thread"), reader)
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let (writer, reader) = piped();
        print(&writer, 0);
        while !writer.queue().is_writing {
            thread::yield_now();
        }
        for number in 1..=5_000 {
            print(&writer, number);
        }
        assert_eq!(writer.queue().lost, 5_000 - 1_024);
        drop(FlushOnDrop(writer.clone()));
        assert_eq!(reader.recv().expect("a line"), b"0\n");
        assert_eq!(reader.recv().expect("a line"), b"1\n");
    }

    #[test]
    fn the_last_lines_are_written_before_the_end() {
        let (writer, reader) = piped();
        let reading = thread::spawn(move || reader.iter().take(100).count());
        for number in 0..100 {
            print(&writer, number);
        }
        drop(FlushOnDrop(writer.clone()));
        assert!(writer.queue().lines.is_empty());
        assert_eq!(reading.join().expect("read"), 100);
    }

    #[test]
    fn an_output_that_has_gone_ends_nothing() {
        let (writer, reader) = piped();
        drop(reader);
        for _ in 0..10 {
            print(&writer, 0);
        }
        drop(FlushOnDrop(writer.clone()));
        assert!(writer.queue().lines.is_empty());
    }
}
