//! Where the examples are.

use std::path::{Path, PathBuf};

/// The program of an example. Cargo builds the examples next to the tests of their package.
pub(crate) fn binary(example: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let target = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
    let binary = target.join("examples").join(format!("{example}{}", std::env::consts::EXE_SUFFIX));
    assert!(binary.exists(), "{} is missing: run `cargo build --examples` first", binary.display());
    binary
}
