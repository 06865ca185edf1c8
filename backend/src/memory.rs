//! How much memory this process may take: the machine's, or the limit of the control group
//! (container, service unit) that it runs in, whichever is less. Linux tells it in files; elsewhere
//! nothing is known.

use std::fs;
use std::path::Path;

const KIB: u64 = 1024;

/// Bytes that this process may take at most; `None` if that cannot be found out.
pub fn of_this_process() -> Option<u64> {
    of_root(Path::new("/"))
}

/// What models get of `total` bytes where the operator says nothing: half. The rest is for what
/// computing with them takes, and for everything else on the machine.
pub fn share_for_models(total: u64) -> u64 {
    total / 2
}

/// As if the file system began at `root`.
fn of_root(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let machine = read("proc/meminfo").and_then(|text| mem_total(&text));
    let group = read("proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&group)
        .into_iter()
        .filter_map(|path| read(&path)?.trim().parse().ok());
    machine.into_iter().chain(limits).min()
}

/// `MemTotal` of `/proc/meminfo`, in bytes (see `proc_meminfo(5)`: what it calls kB are KiB).
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(KIB)
}

/// The files with the limits on the group and all groups around it, given `/proc/self/cgroup` (see
/// `cgroups(7)`). A file that holds no number (`max`), or is not there, sets no limit. Seen from inside
/// a container the own group's path may be that of the host, and its files lie at the top.
fn limit_files(cgroup: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (top, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            v1 if v1.split(',').any(|controller| controller == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for around in Path::new(group).ancestors() {
            let group = around.display().to_string();
            let group = group.trim_matches('/');
            files.push(format!("{top}/{group}/{file}"));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const MEMINFO: &str = "MemTotal:       2048 kB\nMemFree:          10 kB\n";

    fn root(files: &[(&str, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    fn memory(cgroup: &str, limits: &[(&str, &str)]) -> Option<u64> {
        let known = [("proc/meminfo", MEMINFO), ("proc/self/cgroup", cgroup)];
        of_root(root(&[&known, limits].concat()).path())
    }

    #[test]
    fn without_a_limit_it_is_the_machine_s() {
        assert_eq!(memory("0::/a\n", &[]), Some(2048 * KIB));
        let unlimited = [("sys/fs/cgroup/a/memory.max", "max\n")];
        assert_eq!(memory("0::/a\n", &unlimited), Some(2048 * KIB));
    }

    #[test]
    fn the_least_limit_of_the_groups_around_counts() {
        let limits = [
            ("sys/fs/cgroup/a/b/memory.max", "3000\n"),
            ("sys/fs/cgroup/a/memory.max", "2000\n"),
            ("sys/fs/cgroup/other/memory.max", "1\n"),
        ];
        assert_eq!(memory("0::/a/b\n", &limits), Some(2000));
    }

    #[test]
    fn in_a_container_the_limit_lies_at_the_top() {
        let limit = [("sys/fs/cgroup/memory.max", "5000\n")];
        assert_eq!(memory("0::/\n", &limit), Some(5000));
        assert_eq!(memory("0::/docker/1234\n", &limit), Some(5000));
    }

    #[test]
    fn older_groups_have_other_files() {
        let cgroup = "5:cpu,cpuacct:/a\n4:memory:/a\n0::/x\n";
        let limit = [("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "7000\n")];
        assert_eq!(memory(cgroup, &limit), Some(7000));
        // What version 1 writes for "no limit" is more than any machine has.
        let unlimited = [(limit[0].0, "9223372036854771712\n")];
        assert_eq!(memory(cgroup, &unlimited), Some(2048 * KIB));
    }

    #[test]
    fn where_nothing_is_told_nothing_is_known() {
        assert_eq!(of_root(root(&[]).path()), None);
        assert_eq!(of_root(root(&[("proc/meminfo", "odd")]).path()), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_some() {
        assert!(of_this_process().is_some_and(|bytes| bytes > 64 * KIB * KIB));
    }
}
