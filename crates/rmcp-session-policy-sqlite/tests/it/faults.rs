//! A full disk, a file system that is read-only, and a process that holds the file locked.
//!
//! The first two mount file systems of their own, which needs root.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rmcp_session_policy::directory::{Change, Epoch, FoundState, SessionDigest, SessionDirectory};
use rmcp_session_policy_sqlite::{OpenError, SqliteDirectory};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use tokio::time::Instant;

use crate::support::{Logs, PATIENCE, Place, id, is_whole, later, park, see, session_of, sqlite};

/// A file system of one megabyte in memory.
pub(crate) struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    pub(crate) fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let size = CString::new("size=1m").unwrap();
        let mounted = mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), size.as_c_str());
        mounted.expect("a file system can be mounted: these tests need root");
        Self { folder }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("sessions.db")
    }

    /// Fills the disk with another file, which it returns.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.folder.path().join("other");
        let mut other = fs::File::create(&path).unwrap();
        while other.write_all(&[7; 1_024]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(self.folder.path(), UnmountFlags::DETACH).unwrap();
    }
}

fn open(path: &Path) -> SqliteDirectory {
    SqliteDirectory::builder(path).max_wait(PATIENCE).open().unwrap()
}

/// Waits until the directory notices that it cannot be written, or that it can.
pub(crate) async fn until_written(directory: &SqliteDirectory, id: &SessionDigest, is_written: bool) {
    let until = later();
    while directory.stats().is_written != is_written {
        assert!(Instant::now() < until, "it does not notice");
        directory.written(id, Instant::now() + Duration::from_millis(20)).await;
    }
}

/// What the logs say, in order, of what changed.
pub(crate) fn changes(logs: &Logs) -> Vec<&'static str> {
    let known = [
        "cannot be written: the disk is full",
        "cannot be written: another process holds it locked",
        "the session directory can be written again",
    ];
    let lines = logs.lines();
    lines.iter().map(|line| *known.iter().find(|known| line.contains(**known)).expect(line)).collect()
}

#[tokio::test]
async fn a_full_disk_costs_durability_and_nothing_else() {
    let (disk, logs) = (SmallDisk::mount(), Logs::default());
    let directory = logs.of(|| open(&disk.file()));
    let body = [9; 2_000];
    directory.write(&id("before"), Epoch::FIRST, Change::Opened(session_of(1, &body)));
    assert!(directory.written(&id("before"), later()).await);
    let other = disk.fill();
    for number in 0..200 {
        directory.write(&id(number), Epoch::FIRST, Change::Opened(session_of(number, &body)));
    }
    until_written(&directory, &id(0), false).await;
    // What it has written is seen as before, from the queue or from the file.
    for name in [id("before"), id(0), id(199)] {
        assert_eq!(see(&directory, &name).await.state, FoundState::Live);
    }
    directory.write(&id("before"), Epoch::FIRST, Change::Parked(session_of(2, &body)));
    let found = see(&directory, &id("before")).await;
    assert_eq!(found.state, FoundState::Parked);
    let away = directory.claim(&id("before"), &found).await.expect_err("nothing can be claimed");
    assert_eq!(away.to_string(), "the session directory is away");
    assert_eq!(changes(&logs), ["cannot be written: the disk is full"]);

    assert!(directory.stats().failures > 0);

    fs::remove_file(other).unwrap();
    assert_eq!(directory.flush(later()).await, 0);
    assert!(directory.stats().is_written);
    assert_eq!(see(&open(&disk.file()), &id(199)).await.state, FoundState::Live);
    is_whole(&sqlite(&disk.file()));
    let expected = ["cannot be written: the disk is full", "the session directory can be written again"];
    assert_eq!(changes(&logs), expected);
}

#[tokio::test]
async fn a_file_system_that_is_read_only_is_refused_and_the_file_is_untouched() {
    let disk = SmallDisk::mount();
    let directory = open(&disk.file());
    park(&directory, &id("parked"), 1);
    assert_eq!(directory.flush(later()).await, 0);
    drop(directory);
    let until = Instant::now() + PATIENCE;
    // Refused as long as its threads have the file open.
    while mount_remount(disk.folder.path(), MountFlags::RDONLY, c"").is_err() {
        assert!(Instant::now() < until, "it stays open");
        std::thread::yield_now();
    }
    let before = fs::read(disk.file()).unwrap();
    let refused = SqliteDirectory::open(disk.file()).expect_err("it cannot be written");
    assert!(matches!(refused, OpenError::ReadOnly { .. }), "{refused:?}");
    let refused = SqliteDirectory::open(disk.folder.path().join("new")).expect_err("it cannot be made");
    assert!(matches!(refused, OpenError::ReadOnly { .. }), "{refused:?}");
    assert_eq!(fs::read(disk.file()).unwrap(), before);

    mount_remount(disk.folder.path(), MountFlags::empty(), c"").unwrap();
    assert_eq!(see(&open(&disk.file()), &id("parked")).await.state, FoundState::Parked);
}

#[tokio::test]
async fn a_process_that_locks_the_file_costs_durability_for_that_time_and_nothing_else() {
    let (place, logs) = (Place::new(), Logs::default());
    let directory = logs.of(|| place.builder().max_wait(Duration::from_millis(50)).open().unwrap());
    park(&directory, &id("parked"), 1);
    assert!(directory.written(&id("parked"), later()).await);
    let other = place.sqlite();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    directory.write(&id("new"), Epoch::FIRST, Change::Opened(session_of(1, b"")));
    until_written(&directory, &id("new"), false).await;
    let looked = async |name: &str| loop {
        // A busy machine may take longer than the 50 ms.
        if let Ok(found) = directory.look(&id(name)).await {
            return found.expect("it is there");
        }
    };
    assert_eq!(looked("new").await.state, FoundState::Live);
    let parked = looked("parked").await;
    assert_eq!(parked.state, FoundState::Parked);
    assert!(directory.claim(&id("parked"), &parked).await.is_err(), "nothing can be claimed");
    let away = directory.take_due(Some(Duration::ZERO)).await.expect_err("nothing can be taken");
    assert_eq!(away.to_string(), "the session directory is away");
    assert!(directory.stats().failures > 0);

    other.execute_batch("COMMIT").unwrap();
    assert_eq!(directory.flush(later()).await, 0);
    let parked = looked("parked").await;
    assert_eq!(
        (parked.state, parked.epoch),
        (FoundState::Parked, Epoch::FIRST),
        "a claim that failed is not won later"
    );
    let expected = ["cannot be written: another process holds it locked", "the session directory can be written again"];
    assert_eq!(changes(&logs), expected);
}

/// A disk in a file that can be made to fail, as ext4 does after an error: it is read-only from then on.
struct FailingDisk {
    folder: tempfile::TempDir,
}

impl FailingDisk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        fs::create_dir(folder.path().join("disk")).unwrap();
        let disk = Self { folder };
        disk.run("mkfs.ext4", &["-q", "image"]);
        disk.run("mount", &["-o", "loop", "image", "disk"]);
        disk
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = std::process::Command::new(program).args(arguments).current_dir(self.folder.path()).status();
        assert!(status.expect(program).success(), "{program} {arguments:?}");
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        unmount(self.folder.path().join("disk"), UnmountFlags::DETACH).ok();
    }
}

#[tokio::test]
#[ignore = "needs root, mkfs.ext4 and a loop device"]
async fn a_disk_that_fails_while_it_is_used_costs_durability_and_nothing_else() {
    let (disk, logs) = (FailingDisk::mount(), Logs::default());
    let path = disk.folder.path().join("disk/sessions.db");
    let directory = logs.of(|| open(&path));
    directory.write(&id("before"), Epoch::FIRST, Change::Opened(session_of(1, b"")));
    assert!(directory.written(&id("before"), later()).await);
    disk.run("mount", &["-o", "remount,abort", "disk"]);
    directory.write(&id("after"), Epoch::FIRST, Change::Opened(session_of(1, b"")));
    until_written(&directory, &id("after"), false).await;
    for name in ["before", "after"] {
        assert_eq!(see(&directory, &id(name)).await.state, FoundState::Live);
    }
    let lines = logs.lines();
    assert!(lines.len() == 1 && lines[0].contains("cannot be written: "), "{lines:?}");
}
