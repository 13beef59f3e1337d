//! The servers of a file: each has a random id, and a lock file beside the database that the kernel frees with its process.
//!
//! A lock file is called as the database, with the id of its server and `.lock` appended. Its server holds it by `flock`
//! from before the id is written anywhere. A server is gone if its file is not there, or if the lock on it is free.
//! A lock file is empty until its server is about to stop. Descriptors are closed in programs that the process starts, so those do not hold the lock on.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, read_dir, remove_file};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rmcp_session_policy::directory::ServerId;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The place of the lock files of a database.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    database: PathBuf,
}

/// The lock of this server. Freed, with its file, when it is dropped.
#[derive(Debug)]
pub(crate) struct ServerLock {
    id: ServerId,
    path: PathBuf,
    locked: File,
}

/// What the lock file of a server says that is about to stop.
const LEAVING: &[u8] = b"leaving\n";

impl Servers {
    pub(crate) fn of(database: &Path) -> Self {
        Self { database: database.to_owned() }
    }

    /// Makes a server id and takes its lock.
    pub(crate) fn enter(&self) -> io::Result<ServerLock> {
        loop {
            let mut id = [0; 16];
            getrandom::fill(&mut id).map_err(io::Error::other)?;
            let id = ServerId::from_bytes(id);
            let path = self.path(id);
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // A server that tidies up may have seen the file before its lock: then another id is made.
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
                Ok(()) if file.metadata()?.nlink() == 0 => {}
                Ok(()) => return Ok(ServerLock { id, path, locked: file }),
            }
        }
    }

    /// Whether a server is gone. `false` if that cannot be told.
    pub(crate) fn is_gone(&self, id: ServerId) -> bool {
        match try_lock(&self.path(id)) {
            Ok(locked) => locked.is_some(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Whether a server is about to stop. `false` if that cannot be told.
    pub(crate) fn is_leaving(&self, id: ServerId) -> bool {
        fs::metadata(self.path(id)).is_ok_and(|file| file.len() > 0)
    }

    /// Removes the lock files of servers that are gone. What cannot be removed stays, for the next one that tidies up.
    pub(crate) fn tidy(&self) -> io::Result<()> {
        let (Some(folder), Some(name)) = (self.database.parent(), self.database.file_name()) else { return Ok(()) };
        for entry in read_dir(folder)? {
            let entry = entry?;
            // The lock is held until the file is gone: so a server that enters does not take a file that goes.
            if is_lock_of(&entry.file_name(), name)
                && let Ok(Some(_locked)) = try_lock(&entry.path())
            {
                remove_file(entry.path()).ok();
            }
        }
        Ok(())
    }

    fn path(&self, id: ServerId) -> PathBuf {
        let mut path = OsString::from(&self.database);
        path.push(format!(".{id}.lock"));
        path.into()
    }
}

impl ServerLock {
    pub(crate) const fn id(&self) -> ServerId {
        self.id
    }

    /// Writes into the lock file that this server is about to stop.
    pub(crate) fn leave(&self) -> io::Result<()> {
        self.locked.write_all_at(LEAVING, 0)
    }
}

impl Drop for ServerLock {
    fn drop(&mut self) {
        // The lock is freed next. A file that stays is removed by a server that tidies up.
        remove_file(&self.path).ok();
    }
}

/// Locks this file, unless a server holds it. The lock is shared, so that two that try do not take each other for a server.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = File::open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a file is called as a lock file of this database is.
fn is_lock_of(file: &OsStr, database: &OsStr) -> bool {
    let rest = file.as_encoded_bytes().strip_prefix(database.as_encoded_bytes());
    let id = rest.and_then(|rest| rest.strip_prefix(b".")).and_then(|rest| rest.strip_suffix(b".lock"));
    id.is_some_and(|id| id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_server_is_gone_when_its_lock_is_free() {
        let folder = tempfile::tempdir().expect("a folder");
        let servers = Servers::of(&folder.path().join("state"));
        let lock = servers.enter().expect("a lock");
        let mode = fs::metadata(&lock.path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!servers.is_gone(lock.id()) && !servers.is_leaving(lock.id()));
        lock.leave().expect("written");
        assert!(!servers.is_gone(lock.id()) && servers.is_leaving(lock.id()));
        let (id, path) = (lock.id(), lock.path.clone());
        drop(lock);
        assert!(!path.exists());
        assert!(servers.is_gone(id));
    }

    #[test]
    fn lock_files_that_are_free_are_removed_and_others_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let servers = Servers::of(&folder.path().join("state"));
        let lock = servers.enter().expect("a lock");
        let left = servers.path(ServerId::from_bytes([7; 16]));
        let other = folder.path().join("state.of-another-program.lock");
        for path in [&left, &other] {
            fs::write(path, "").expect("written");
        }
        assert!(servers.is_gone(ServerId::from_bytes([7; 16])));
        servers.tidy().expect("tidied");
        assert_eq!((left.exists(), other.exists(), lock.path.exists()), (false, true, true));
    }
}
