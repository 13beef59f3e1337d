//! The clock of the file: milliseconds that go on over restarts of the process and of the machine.
//!
//! Within one boot it is `CLOCK_BOOTTIME` plus an offset that the file keeps beside the id of the boot. After another boot
//! it goes on from the moment saved last by as much as the wall clock has gone on since, and by nothing if that went back.
//! The moment is saved each minute, so a wall clock that went back takes up to a minute from the ages.

use std::fs;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::row::Moment;

/// The clock of an open file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    offset: i64,
}

/// What the file keeps of its clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) boot: String,
    pub(crate) offset: i64,
    /// A moment, and what the wall clock said then, in milliseconds since 1970.
    pub(crate) at: Moment,
    pub(crate) wall: i64,
}

/// What the machine's clocks say.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) boot: String,
    pub(crate) boottime: i64,
    pub(crate) wall: i64,
}

impl Clock {
    /// The clock of a file that keeps this, on this machine.
    pub(crate) fn resume(saved: Option<&Saved>, machine: &Machine) -> Self {
        let offset = match saved {
            None => 0,
            Some(saved) if saved.boot == machine.boot => saved.offset,
            Some(saved) => {
                let passed = machine.wall.saturating_sub(saved.wall).max(0);
                saved.at.saturating_add(passed).saturating_sub(machine.boottime)
            }
        };
        Self { offset }
    }

    /// This moment.
    pub(crate) fn now(self) -> Moment {
        self.at(boottime())
    }

    /// What the file should keep.
    pub(crate) fn saved(self, machine: &Machine) -> Saved {
        let at = self.at(machine.boottime);
        Saved { boot: machine.boot.clone(), offset: self.offset, at, wall: machine.wall }
    }

    const fn at(self, boottime: i64) -> Moment {
        boottime.saturating_add(self.offset)
    }
}

impl Machine {
    pub(crate) fn read() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, crate::row::millis);
        Ok(Self { boot, boottime: boottime(), wall })
    }
}

fn boottime() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(boot: &str, boottime: i64, wall: i64) -> Machine {
        Machine { boot: boot.to_owned(), boottime, wall }
    }

    #[test]
    fn the_clock_goes_on_within_a_boot_whatever_the_wall_clock_does() {
        let first = machine("one", 5_000, 1_000_000);
        let clock = Clock::resume(None, &first);
        let later = machine("one", 9_000, 3);
        let again = Clock::resume(Some(&clock.saved(&first)), &later);
        assert_eq!(again.at(later.boottime) - clock.at(first.boottime), 4_000);
    }

    #[test]
    fn the_clock_goes_on_over_boots_by_the_wall_clock() {
        let first = machine("one", 5_000, 1_000_000);
        let clock = Clock::resume(None, &first);
        let rebooted = machine("two", 40, 1_060_000);
        let again = Clock::resume(Some(&clock.saved(&first)), &rebooted);
        assert_eq!(again.at(rebooted.boottime) - clock.at(first.boottime), 60_000);
        // A third boot goes on from the second.
        let third = machine("three", 10, 1_061_000);
        let again = Clock::resume(Some(&again.saved(&rebooted)), &third);
        assert_eq!(again.at(third.boottime) - clock.at(first.boottime), 61_000);
    }

    #[test]
    fn a_wall_clock_that_went_back_counts_as_zero() {
        let first = machine("one", 5_000, 1_000_000);
        let clock = Clock::resume(None, &first);
        let rebooted = machine("two", 40, 500);
        let again = Clock::resume(Some(&clock.saved(&first)), &rebooted);
        assert_eq!(again.at(rebooted.boottime), clock.at(first.boottime));
    }
}
