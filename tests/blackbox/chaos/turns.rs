//! Whether anybody was given a host out of turn, by what one process has logged of its requests. Pure.
//!
//! The log tells when a request was answered, for how long it had been there, and how long it had waited. Of those
//! that were on one host only, and waited for nothing else, this is when they came and when they were given it. The
//! process notes both a moment late, and the later the busier its machine is; one request may even be the last to notice
//! that it has been given its host. So only what is far out of turn counts, and only if it happened several times to
//! several requests.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::ledger::Who;

/// So far from the beginning and from the end of a wait whoever comes first has overtaken the one that waits.
const FAR: Duration = Duration::from_millis(100);
/// Times that it must have happened to a request, and requests that it must have happened to.
const TIMES: usize = 3;

/// One request's time in line.
#[derive(Debug)]
struct Turn {
    name: String,
    who: Who,
    /// For which some hosts are no use that are for others.
    is_for_pairs: bool,
    came: SystemTime,
    went: SystemTime,
    /// It went along with others, who made no slot wait for it.
    is_company: bool,
}

impl Turn {
    /// `None`: the line does not tell.
    fn read(line: &Value) -> Option<Self> {
        let millis = |key: &str| line[key].as_u64().map(Duration::from_millis);
        let hosts = line["hosts"].as_str()?;
        let is_one = hosts.contains(":deliver:") && !hosts.contains([' ', '(']);
        let ended = humantime::parse_rfc3339(line["timestamp"].as_str()?).ok()?;
        let came = ended.checked_sub(millis("total_ms")?)?;
        is_one.then_some(Self {
            name: line["id"].as_str()?.to_owned(),
            who: *Who::ALL.iter().find(|who| line["client"] == who.name())?,
            is_for_pairs: line["route"] == "bertscore",
            came,
            went: came + millis("queue_ms")?,
            is_company: hosts.contains("[+"),
        })
    }

    /// Does it go before `other`, if both wait?
    fn is_before(&self, other: &Self) -> bool {
        let (mine, others) = (self.who.priority(), other.who.priority());
        mine > others || (self.who == other.who && self.came + FAR < other.came)
    }

    fn is_overtaken_by(&self, other: &Self) -> bool {
        self.came + FAR < other.went
            && other.went + FAR < self.went
            && !other.is_company
            && self.is_for_pairs == other.is_for_pairs
            && self.is_before(other)
    }
}

/// Tells of one of those that were, if so many were.
pub(super) fn out_of_turn(lines: &[Value]) -> Option<String> {
    let turns: Vec<_> = lines.iter().filter_map(Turn::read).collect();
    let overtaken = turns.iter().filter_map(|turn| {
        let others = turns.iter().filter(|other| turn.is_overtaken_by(other));
        let names: Vec<_> = others.map(|other| other.name.as_str()).collect();
        (names.len() >= TIMES).then_some((turn, names))
    });
    let overtaken: Vec<_> = overtaken.collect();
    let (turn, names) = overtaken.first().filter(|_| overtaken.len() >= TIMES)?;
    let waited = turn.went.duration_since(turn.came).unwrap_or_default();
    Some(format!(
        "{} were served out of turn: {} waited {waited:?}, and {} went before it, such as {}",
        overtaken.len(),
        turn.name,
        names.len(),
        names[0]
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `times`: when it came, was given its host, and had its answer, in milliseconds.
    fn line(client: &str, route: &str, hosts: &str, times: [u64; 3]) -> Value {
        let [came, went, ended] = times;
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(ended);
        json!({
            "timestamp": humantime::format_rfc3339_millis(at).to_string(), "client": client, "route": route,
            "hosts": hosts, "id": client, "total_ms": ended - came, "queue_ms": went - came,
        })
    }

    #[test]
    fn who_is_overtaken_again_and_again_is_found() {
        let alone = "a:deliver:20ms";
        let waits = |client| line(client, "embed", alone, [0, 1000, 1020]);
        let overtakes = |client, route, hosts, came| line(client, route, hosts, [came, 500, 520]);
        let found = |one: Value, other: Value| {
            let lines = [vec![one; TIMES], vec![other; TIMES]].concat();
            out_of_turn(&lines).is_some()
        };
        let light = || overtakes("light", "embed", alone, 0);
        assert!(found(waits("urgent"), light()));
        assert!(found(
            waits("heavy"),
            overtakes("heavy", "embed", alone, 300)
        ));
        // With right: as equals, as the higher one, in company, or where the other could not go.
        let company = "a[+2]:deliver:20ms";
        let again = "a:busy:2ms b:deliver:20ms";
        for (one, other) in [
            ("heavy", light()),
            ("heavy", overtakes("urgent", "embed", alone, 0)),
            ("heavy", overtakes("heavy", "embed", alone, 50)),
            ("urgent", overtakes("light", "bertscore", alone, 0)),
            ("urgent", overtakes("light", "embed", company, 0)),
            ("urgent", overtakes("light", "embed", again, 0)),
        ] {
            assert!(!found(waits(one), other.clone()), "{one}, {other}");
        }
        // Hardly, or hardly anybody.
        assert!(!found(
            line("urgent", "embed", alone, [420, 610, 630]),
            light()
        ));
        let one = [vec![waits("urgent")], vec![light(); 9]].concat();
        assert_eq!(out_of_turn(&one), None);
    }
}
