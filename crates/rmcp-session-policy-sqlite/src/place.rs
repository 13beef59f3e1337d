//! Checks of the path of a directory, before SQLite opens it: the file system, permissions, and the mode of a new file.
//!
//! An existing database is never opened here: closing a descriptor of it would free the locks that SQLite holds for
//! another connection of this process (POSIX locks belong to the process).

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statfs};

use crate::error::OpenError;

/// The magic numbers of file systems that are not local, of `statfs(2)` and the kernel's `magic.h`.
const NOT_LOCAL: [(u32, &str); 8] = [
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0xff53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
];

/// Returns the true path of a database that may be opened, and whether it was made just now, empty.
pub(crate) fn prepare(path: &Path) -> Result<(PathBuf, bool), OpenError> {
    let io = |source: io::Error| OpenError::Io { path: path.to_owned(), source };
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return create(path),
        Err(error) => return Err(io(error)),
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    check_file_system(&path)?;
    if !path.metadata().map_err(io)?.is_file() {
        return Err(OpenError::NotADirectoryOfSessions { path });
    }
    // Only to write files beside it, the folder must be writable too.
    for place in [&path, folder] {
        if access(place, Access::WRITE_OK).is_err() {
            return Err(OpenError::ReadOnly { path: path.clone() });
        }
    }
    Ok((path, false))
}

/// Makes a file that no other user can read.
fn create(path: &Path) -> Result<(PathBuf, bool), OpenError> {
    let io = |source: io::Error| OpenError::Io { path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| io(io::ErrorKind::InvalidInput.into()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().map_err(io)?;
    check_file_system(&folder)?;
    let path = folder.join(name);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(_) => Ok((path, true)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok((path, false)),
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            Err(OpenError::ReadOnly { path })
        }
        Err(source) => Err(OpenError::Io { path, source }),
    }
}

fn check_file_system(path: &Path) -> Result<(), OpenError> {
    let stat = statfs(path).map_err(|error| OpenError::Io { path: path.to_owned(), source: error.into() })?;
    // The type of the field differs between architectures; the number has 32 bits.
    match not_local(stat.f_type as u32) {
        Some(kind) => Err(OpenError::NotLocal { path: path.to_owned(), kind }),
        None => Ok(()),
    }
}

fn not_local(magic: u32) -> Option<&'static str> {
    NOT_LOCAL.into_iter().find(|(number, _)| *number == magic).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_refused_and_local_ones_are_not() {
        for (magic, kind) in [(0x6969, "NFS"), (0xff53_4d42, "SMB"), (0x0102_1997, "9p"), (0x6573_5546, "FUSE")] {
            assert_eq!(not_local(magic), Some(kind));
        }
        // ext4, XFS, tmpfs, overlay.
        for magic in [0xef53, 0x5846_5342, 0x0102_1994, 0x794c_7630] {
            assert_eq!(not_local(magic), None);
        }
    }
}
