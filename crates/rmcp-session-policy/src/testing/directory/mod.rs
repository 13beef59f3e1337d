//! A [session directory](crate::directory) in memory, and checks of the laws that each one keeps.
//!
//! [`MemoryDirectory`] is for tests and examples: it can be away, slow, or lose what it is told. [`keeps_the_laws`] and
//! [`keeps_its_bounds`] hold any backend to the contract of [`SessionDirectory`](crate::directory::SessionDirectory).

mod bounds;
#[cfg(test)]
mod broken;
mod history;
mod laws;
mod memory;
mod rows;

pub use bounds::keeps_its_bounds;
pub use laws::keeps_the_laws;
pub use memory::MemoryDirectory;
