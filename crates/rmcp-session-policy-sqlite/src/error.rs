//! [`OpenError`]: why a directory was not opened.

use std::io;
use std::path::PathBuf;

/// Says why a directory was not opened, and what to do. The file is as it was before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting of the builder makes no sense.
    #[error("{setting} must be {must_be}")]
    Setting {
        /// The name of the setting.
        setting: &'static str,
        /// What it must be.
        must_be: &'static str,
    },
    /// The SQLite that the program runs with can corrupt a file that two processes write.
    #[error("SQLite {version} is too old: build with 3.51.3 or newer, as rusqlite's feature `bundled` does")]
    OldSqlite {
        /// Its version.
        version: &'static str,
    },
    /// The file is on a file system of a network or of another program, where locks and shared memory cannot be relied on.
    #[error("{} is on {kind}: choose a path on a local disk", path.display())]
    NotLocal {
        /// The path.
        path: PathBuf,
        /// The kind of the file system.
        kind: &'static str,
    },
    /// The file belongs to another program.
    #[error("{} is not a session directory: choose another path", path.display())]
    NotADirectoryOfSessions {
        /// The path.
        path: PathBuf,
    },
    /// A newer release has written the file, and says that this one cannot read it.
    #[error("{} was written by a newer release (schema {schema}): start that release, or choose another path", path.display())]
    Newer {
        /// The path.
        path: PathBuf,
        /// The version of its schema.
        schema: i64,
    },
    /// The file is damaged.
    #[error("{} is damaged: move it and the files beside it away, or restore a backup", path.display())]
    Damaged {
        /// The path.
        path: PathBuf,
    },
    /// The file, its folder or its file system cannot be written.
    #[error("{} cannot be written: make the file and its folder writable, or choose another path", path.display())]
    ReadOnly {
        /// The path.
        path: PathBuf,
    },
    /// Another process holds the file locked.
    #[error("{} is locked by another process: stop that process, or choose another path", path.display())]
    Locked {
        /// The path.
        path: PathBuf,
    },
    /// The operating system or SQLite refused something else.
    #[error("cannot open {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}
