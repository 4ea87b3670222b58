//! The journal: an append-only file of everything that must survive a crash.
//!
//! A record is its length, its CRC-32 and its bytes. Records collect while the previous ones are
//! written, then go to disk with one fsync (group commit). A torn tail, as a crash leaves it, is
//! cut off at the next start. The file is rewritten when most of it is obsolete.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::record::{self, Record};

const RETRY: Duration = Duration::from_secs(1);

/// Sequence number of a group commit.
pub type Ticket = u64;

/// What the writer reports.
#[derive(Debug)]
pub struct Written {
    pub ticket: Ticket,
    /// Length of the file now.
    pub bytes: u64,
}

enum Job {
    Append { ticket: Ticket, records: Vec<Record> },
    Replace { ticket: Ticket, records: Vec<Record> },
}

/// The side of the journal that the broker sees; a thread of its own writes.
#[derive(Debug)]
pub struct Journal {
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    pending: Vec<Record>,
    /// Commit that `pending` will be part of.
    ticket: Ticket,
    /// Everything up to this commit is on disk.
    pub durable: Ticket,
    writing: bool,
    bytes: u64,
    /// Length after the last rewrite.
    base_bytes: u64,
    replacing: bool,
}

impl Journal {
    /// Begin a new journal in `directory` that holds `records`, in the place of any old one.
    pub fn create(
        directory: &Path,
        records: &[Record],
    ) -> io::Result<(Self, UnboundedReceiver<Written>)> {
        let mut writer = Writer { path: directory.join("journal"), file: None, bytes: 0 };
        writer.replace(records)?;
        let (jobs, receiver) = mpsc::channel();
        let (sender, written) = unbounded_channel();
        let bytes = writer.bytes;
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run(&receiver, &sender))?;
        let base_bytes = bytes;
        let (jobs, writer) = (Some(jobs), Some(thread));
        let journal = Self { jobs, writer, bytes, base_bytes, ..Self::closed() };
        Ok((journal, written))
    }

    /// A journal that takes nothing, for the time before it is known what it begins with.
    pub fn closed() -> Self {
        Self {
            jobs: None,
            writer: None,
            pending: Vec::new(),
            ticket: 1,
            durable: 0,
            writing: false,
            bytes: 0,
            base_bytes: 0,
            replacing: false,
        }
    }

    /// Add a record to the next commit.
    pub fn append(&mut self, record: Record) -> Ticket {
        self.pending.push(record);
        self.ticket
    }

    /// The commit that brings everything up to now to disk.
    pub fn last_ticket(&self) -> Ticket {
        if self.pending.is_empty() { self.ticket - 1 } else { self.ticket }
    }

    pub fn is_writing(&self) -> bool {
        self.writing
    }

    /// Commit what has collected, unless a commit is under way: then it goes with the next.
    pub fn flush(&mut self) {
        if !self.writing && !self.pending.is_empty() {
            let records = std::mem::take(&mut self.pending);
            self.send(|ticket| Job::Append { ticket, records });
        }
    }

    /// Is it worth rewriting the file now?
    pub fn wants_replacement(&self, least_bytes: u64) -> bool {
        !self.writing && self.bytes > least_bytes.max(2 * self.base_bytes)
    }

    /// Rewrite the file with `records`, which describe everything up to now.
    pub fn replace(&mut self, records: Vec<Record>) {
        self.pending.clear();
        self.replacing = true;
        self.send(|ticket| Job::Replace { ticket, records });
    }

    /// Take note of a commit that is done.
    pub fn note(&mut self, written: &Written) {
        self.durable = written.ticket;
        self.bytes = written.bytes;
        self.writing = false;
        if std::mem::take(&mut self.replacing) {
            self.base_bytes = written.bytes;
        }
    }

    /// Write what is left, and wait for it.
    pub fn close(&mut self) {
        if !self.pending.is_empty() {
            let records = std::mem::take(&mut self.pending);
            self.send(|ticket| Job::Append { ticket, records });
        }
        self.jobs = None;
        if let Some(Err(_)) = self.writer.take().map(JoinHandle::join) {
            ::log::error!("the journal's writer failed");
        }
    }

    fn send(&mut self, job: impl FnOnce(Ticket) -> Job) {
        self.writing = true;
        let job = job(self.ticket);
        self.ticket += 1;
        // A writer that is gone acknowledges nothing more: publishers wait, nothing is lost.
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(job).is_err()) {
            ::log::error!("the journal's writer is gone");
        }
    }
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Writer {
    fn run(mut self, jobs: &mpsc::Receiver<Job>, written: &UnboundedSender<Written>) {
        while let Ok(job) = jobs.recv() {
            let (Job::Append { ticket, .. } | Job::Replace { ticket, .. }) = job;
            while let Err(error) = self.write(&job) {
                // Nothing is acknowledged until it is on disk, so publishers wait meanwhile.
                ::log::error!(path:display = self.path.display(), error:display = error; "cannot write the journal, trying again");
                std::thread::sleep(RETRY);
            }
            if written.send(Written { ticket, bytes: self.bytes }).is_err() {
                ::log::debug!("nobody waits for the journal any more");
            }
        }
    }

    fn write(&mut self, job: &Job) -> io::Result<()> {
        match job {
            Job::Append { records, .. } => self.append(records),
            Job::Replace { records, .. } => self.replace(records),
        }
    }

    fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let mut buffer = Vec::new();
        for record in records {
            record::encode(record, &mut buffer)?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(OpenOptions::new().append(true).open(&self.path)?),
        };
        // After a failed attempt, a part of these records may already stand there.
        if file.metadata()?.len() != self.bytes {
            file.set_len(self.bytes)?;
        }
        file.write_all(&buffer)?;
        // Acknowledgements need no fsync: losing one means sending that message once more.
        if records.iter().any(|record| !matches!(record, Record::Acknowledge { .. })) {
            file.sync_data()?;
        }
        self.bytes += buffer.len() as u64;
        Ok(())
    }

    fn replace(&mut self, records: &[Record]) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&fresh)?);
        let (mut buffer, mut bytes) = (Vec::new(), 0);
        for record in records {
            buffer.clear();
            record::encode(record, &mut buffer)?;
            out.write_all(&buffer)?;
            bytes += buffer.len() as u64;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        self.bytes = bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledgement(delivery: u64) -> Record {
        Record::Acknowledge { session: 1, delivery }
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, mut written) = Journal::create(directory.path(), &[]).unwrap();
        assert_eq!(journal.append(acknowledgement(1)), 1);
        journal.flush();
        // While the first commit is under way, the next ones collect.
        assert_eq!(journal.append(acknowledgement(2)), 2);
        journal.flush();
        assert_eq!(journal.append(acknowledgement(3)), 2);
        journal.note(&written.blocking_recv().unwrap());
        assert_eq!(journal.durable, 1);
        journal.flush();
        journal.note(&written.blocking_recv().unwrap());
        assert_eq!(journal.durable, 2);
        journal.append(acknowledgement(4));
        journal.close();
        let expected: Vec<_> = (1..=4).map(acknowledgement).collect();
        assert_eq!(record::read(directory.path()).unwrap(), expected);
    }

    #[test]
    fn a_replacement_forgets_what_came_before() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, mut written) = Journal::create(directory.path(), &[]).unwrap();
        for delivery in 0..100 {
            journal.append(acknowledgement(delivery));
        }
        journal.flush();
        journal.note(&written.blocking_recv().unwrap());
        assert!(journal.wants_replacement(100) && !journal.wants_replacement(1_000_000));
        journal.replace(vec![acknowledgement(7)]);
        journal.append(acknowledgement(8));
        journal.close();
        assert_eq!(
            record::read(directory.path()).unwrap(),
            [acknowledgement(7), acknowledgement(8)]
        );
    }
}
