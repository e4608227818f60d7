//! What a process has used of the machine, as /proc tells it. `None`: there is no such process, or /proc does not say.

use rustix::process::Pid;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Processor time that all its threads have used, user and system, in seconds.
pub(crate) fn cpu_seconds(pid: Pid) -> Option<f64> {
    cpu_of_stat(&read(pid, "stat")?)
}

/// Memory that it has resident, in KiB.
pub(crate) fn resident_kib(pid: Pid) -> Option<u64> {
    field(&read(pid, "status")?, "VmRSS:")
}

/// How often its threads that still run have given up the processor or were taken off it.
pub(crate) fn context_switches(pid: Pid) -> Option<u64> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).ok()?;
    // A thread can end between being listed and being read.
    let texts = threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    Some(texts.filter_map(|text| switches_of_status(&text)).sum())
}

/// Bytes that were written to the block device on which `path` is, by anybody, since the machine started (/proc/diskstats). What the kernel
/// counts for a process (`write_bytes`) are pages as they become dirty, of whole large folios: up to a hundred times as much. `None`: it is
/// on no block device.
pub(crate) fn device_written_bytes(path: &Path) -> Option<u64> {
    let device = std::fs::metadata(path).ok()?.dev();
    let numbers = (rustix::fs::major(device), rustix::fs::minor(device));
    sectors_written(&std::fs::read_to_string("/proc/diskstats").ok()?, numbers).map(|sectors| sectors * 512)
}

fn sectors_written(diskstats: &str, (major, minor): (u32, u32)) -> Option<u64> {
    let own = |fields: &Vec<&str>| fields.len() > 9 && fields[0] == major.to_string() && fields[1] == minor.to_string();
    let line = diskstats.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(own)?;
    line[9].parse().ok()
}

fn read(pid: Pid, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero())).ok()
}

fn cpu_of_stat(stat: &str) -> Option<f64> {
    // The name, in parentheses, may hold anything: fields are counted from its end. 14 and 15 are the times.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / rustix::param::clock_ticks_per_second() as f64)
}

fn switches_of_status(status: &str) -> Option<u64> {
    Some(field(status, "voluntary_ctxt_switches:")? + field(status, "nonvoluntary_ctxt_switches:")?)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_that_proc_names() {
        let status =
            "Name:\tchatd\nVmRSS:\t   51232 kB\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(field(status, "VmRSS:"), Some(51_232));
        assert_eq!(switches_of_status(status), Some(157));
        assert_eq!(field(status, "VmSwap:"), None);
    }

    #[test]
    fn a_device_is_found_by_its_numbers() {
        let stats =
            "   7       0 loop0 1 2 3 4 5 6 7 8\n 254       0 vda 13 0 1104 4 99 5 4242 10 0 4 15 0 0 0 0 0 0\n";
        assert_eq!(sectors_written(stats, (254, 0)), Some(4242));
        assert_eq!(sectors_written(stats, (254, 1)), None);
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_times() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 300 200 0 0 20";
        let seconds = cpu_of_stat(stat).expect("it is a stat line");
        assert!((seconds * rustix::param::clock_ticks_per_second() as f64 - 500.0).abs() < 1e-6);
    }

    #[test]
    fn this_process_has_used_something() {
        let own = rustix::process::getpid();
        assert!(resident_kib(own).is_some_and(|kib| kib > 100));
        assert!(context_switches(own).is_some() && cpu_seconds(own).is_some());
    }
}
