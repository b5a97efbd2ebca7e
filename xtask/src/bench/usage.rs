//! What a program and its children have used: time of processors and memory, from /proc.

use std::collections::BTreeMap;
use std::fs;

/// Microseconds of a tick of `/proc/PID/stat`: the kernel tells programs hundredths of a second,
/// whatever its own clock does.
const TICK_US: u64 = 10_000;

/// Processes and what they used, by number.
type Processes = BTreeMap<u32, Stat>;

/// A line of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stat {
    parent: u32,
    /// User and system time of all threads, also of those that have ended.
    own: u64,
    /// The same of children that have ended and were waited for.
    inherited: u64,
}

/// Processor time of a process and all below it, in microseconds.
///
/// Children that have ended count by what their parent inherited from them.
pub(super) fn cpu_us(root: u32) -> u64 {
    let processes = processes();
    let members = family(root, &processes).into_iter();
    members
        .filter_map(|process| Some((process, processes.get(&process)?)))
        .map(|(process, stat)| {
            // Hundredths are too coarse for a program of hundreds of processes; but only they
            // know of threads that have ended.
            let own = (stat.own * TICK_US).max(threads_us(process));
            own + stat.inherited * TICK_US
        })
        .sum()
}

/// Processor time of the threads that a process has now, which the scheduler tells exactly.
fn threads_us(process: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let line = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        line.split(' ').next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() / 1000
}

/// Memory of a process and all below it, in KiB.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Memory {
    /// Resident now.
    pub(super) now: u64,
    /// The most that was ever resident in each of them.
    pub(super) peak: u64,
}

/// Reads the memory of a process and all below it. What they share counts for each.
pub(super) fn memory(root: u32) -> Memory {
    family(root, &processes())
        .iter()
        .filter_map(|process| fs::read_to_string(format!("/proc/{process}/status")).ok())
        .map(|status| memory_of(&status))
        .fold(Memory::default(), |all, one| Memory {
            now: all.now + one.now,
            peak: all.peak + one.peak,
        })
}

fn processes() -> Processes {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter_map(|number: u32| {
            let line = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
            Some((number, stat_of(&line)?))
        })
        .collect()
}

/// A process and all below it.
fn family(root: u32, processes: &Processes) -> Vec<u32> {
    let mut members = vec![root];
    let mut at = 0;
    while let Some(&parent) = members.get(at) {
        let children = processes.iter().filter(|(_, stat)| stat.parent == parent);
        let children: Vec<u32> = children.map(|(number, _)| *number).collect();
        members.extend(children.into_iter().filter(|child| *child != root));
        at += 1;
    }
    members
}

/// Reads a line of `/proc/PID/stat`. The program's name, in parentheses, may hold anything.
fn stat_of(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Fields are counted from 1 in proc(5); the first of `fields` is the third.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let own = field(14)? + field(15)?;
    Some(Stat { parent: fields.get(1)?.parse().ok()?, own, inherited: field(16)? + field(17)? })
}

fn memory_of(status: &str) -> Memory {
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    let (now, peak) = (kib("VmRSS:"), kib("VmHWM:"));
    Memory { now: now.unwrap_or(0), peak: peak.unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::{Memory, Stat, cpu_us, family, memory, memory_of, stat_of};

    const LINE: &str = "4711 (a) b (c) S 17 4711 4711 0 -1 4194560 100 0 0 0 30 12 5 3 20 0 4 0 99";

    #[test]
    fn a_stat_line_gives_parent_and_time_whatever_the_program_is_called() {
        assert_eq!(stat_of(LINE), Some(Stat { parent: 17, own: 42, inherited: 8 }));
        assert_eq!(stat_of("4711 (a) S 17 1"), None);
        assert_eq!(stat_of(""), None);
    }

    #[test]
    fn a_family_is_children_and_their_children() {
        let stat = |parent| Stat { parent, own: 1, inherited: 0 };
        let processes = [(1, stat(0)), (5, stat(1)), (6, stat(5)), (7, stat(6)), (8, stat(1))];
        assert_eq!(family(5, &processes.into()), [5, 6, 7]);
    }

    #[test]
    fn memory_is_read_by_its_names() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(memory_of(status), Memory { now: 1024, peak: 2048 });
        assert_eq!(memory_of("Name:\tx\n"), Memory::default());
    }

    #[test]
    fn this_test_itself_uses_time_and_memory() {
        let own = std::process::id();
        let memory = memory(own);
        assert!(memory.now > 0 && memory.peak >= memory.now, "{memory:?}");
        let before = cpu_us(own);
        assert!(before > 0 && cpu_us(own) >= before);
    }
}
