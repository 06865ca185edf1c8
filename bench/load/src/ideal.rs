//! What a perfect proxy would make of a schedule: one central queue, first come, first served, no
//! overhead, no limit to waiting, and each request on the fastest of the slots that are free.

use std::time::Duration;

use crate::schedule::Job;

/// Time from the first arrival to the last answer, for slots of these speeds. `None` without slots.
pub(crate) fn makespan(jobs: &[Job], speeds: &[f64]) -> Option<Duration> {
    let first = jobs.first()?.at.as_secs_f64();
    let mut slots: Vec<Slot> = speeds.iter().map(|speed| Slot::new(*speed)).collect();
    let mut end = first;
    for job in jobs {
        let soonest = slots
            .iter()
            .map(|slot| slot.free_at)
            .min_by(f64::total_cmp)?;
        let start = soonest.max(job.at.as_secs_f64());
        let free = slots.iter_mut().filter(|slot| slot.free_at <= start);
        let slot = free.max_by(|a, b| a.speed.total_cmp(&b.speed))?;
        slot.free_at = start + job.work.as_secs_f64() / slot.speed;
        end = end.max(slot.free_at);
    }
    Some(Duration::from_secs_f64(end - first))
}

struct Slot {
    speed: f64,
    /// In seconds since the start.
    free_at: f64,
}

impl Slot {
    fn new(speed: f64) -> Self {
        Self {
            speed,
            free_at: 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(list: &[(u64, u64)]) -> Vec<Job> {
        let job = |&(at, work): &(u64, u64)| Job {
            at: Duration::from_secs(at),
            work: Duration::from_secs(work),
            texts: 1,
        };
        list.iter().map(job).collect()
    }

    fn seconds(list: &[(u64, u64)], speeds: &[f64]) -> Option<f64> {
        makespan(&jobs(list), speeds).map(|time| time.as_secs_f64())
    }

    #[test]
    fn makespans_are_those_worked_out_by_hand() {
        // One slot: 10–13, 13–15, then idle until 20.
        let queued = [(10, 3), (11, 2), (20, 1)];
        assert_eq!(seconds(&queued, &[1.0]), Some(11.0));
        // Two: the second is done while the first runs.
        assert_eq!(seconds(&[(0, 4), (0, 2), (0, 2)], &[1.0, 1.0]), Some(4.0));
        // The fast slot first; the second has to take the slow one at once, and ends at 8.
        assert_eq!(seconds(&[(0, 2), (0, 2)], &[0.25, 1.0]), Some(8.0));
        assert_eq!(seconds(&queued, &[]), None);
        assert_eq!(seconds(&[], &[1.0]), None);
    }
}
