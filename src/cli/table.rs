//! The pool as a table for people. Pure: text in, text out.

use crate::admin::view::{HostState, PoolState, State};

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

const HEADINGS: [&str; 8] = [
    "HOST", "STATE", "SLOTS", "FOREIGN", "SPEED", "VRAM", "MODELS", "WHY",
];
/// Longer lists of models are cut, so that the reason behind them stays on the screen.
const MAX_MODELS: usize = 40;

type Row = [String; HEADINGS.len()];

/// The whole text, with a line for each host and one for the queue.
pub(super) fn render(pool: &PoolState, colours: bool) -> String {
    let rows: Vec<Row> = pool.hosts.iter().map(row).collect();
    let headings = HEADINGS.map(str::to_owned);
    let widths = widths(&headings, &rows);
    let mut text = line(
        &headings,
        &widths,
        colours.then_some(BOLD).map(|style| (0, style)),
    );
    for (host, row) in pool.hosts.iter().zip(&rows) {
        let style = colours.then(|| (1, colour(host.state)));
        text.push_str(&line(row, &widths, style));
    }
    text.push_str(&queue(pool));
    text
}

fn row(host: &HostState) -> Row {
    [
        host.name.clone(),
        host.state.to_string(),
        slots(host),
        host.foreign.to_string(),
        host.speed
            .map_or_else(|| "-".to_owned(), |speed| format!("{speed:.2}x")),
        vram(host),
        models(&host.models),
        host.why.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// In use of what may be in use; in brackets what could be, were it not for the reason given.
fn slots(host: &HostState) -> String {
    let used = format!("{}/{}", host.in_flight, host.slots);
    if host.slots == host.capacity {
        used
    } else {
        format!("{used} ({})", host.capacity)
    }
}

fn vram(host: &HostState) -> String {
    let gigabytes = |mb: u64| mb as f64 / 1024.0;
    match (host.vram_used_mb, host.vram_total_mb) {
        (Some(used), Some(total)) => {
            format!("{:.1}/{:.1} GB", gigabytes(used), gigabytes(total))
        }
        (None, Some(total)) => format!("?/{:.1} GB", gigabytes(total)),
        _ => "-".to_owned(),
    }
}

fn models(models: &[String]) -> String {
    let all = models.join(" ");
    if all.is_empty() {
        return "-".to_owned();
    }
    if all.chars().count() <= MAX_MODELS {
        return all;
    }
    let start: String = all.chars().take(MAX_MODELS - 1).collect();
    format!("{start}…")
}

fn queue(pool: &PoolState) -> String {
    let queue = &pool.queue;
    let wait = if queue.waiting > 0 && queue.expected_wait_seconds > 0.0 {
        format!(", served in about {:.1} s", queue.expected_wait_seconds)
    } else {
        String::new()
    };
    let ready = if pool.ready {
        ""
    } else {
        "; no host can serve"
    };
    let held_back = match queue.held_back {
        0 => String::new(),
        requests => format!(", {requests} of them for the limits of their keys"),
    };
    format!("queue: {} waiting{held_back}{wait}{ready}\n", queue.waiting)
}

fn widths(headings: &Row, rows: &[Row]) -> [usize; HEADINGS.len()] {
    let mut widths = [0; HEADINGS.len()];
    for row in std::iter::once(headings).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

/// `style`: the column that it begins at, for that column or, from the first, the whole line.
fn line(row: &Row, widths: &[usize; HEADINGS.len()], style: Option<(usize, &str)>) -> String {
    let cells = row.iter().zip(widths).enumerate();
    let padded = cells.map(|(column, (cell, width))| {
        let last = column + 1 == HEADINGS.len();
        let cell = if last {
            cell.clone()
        } else {
            format!("{cell:<width$}")
        };
        match style {
            Some((0, style)) => format!("{style}{cell}{PLAIN}"),
            Some((styled, style)) if styled == column => format!("{style}{cell}{PLAIN}"),
            _ => cell,
        }
    });
    let mut line = padded.collect::<Vec<_>>().join("  ");
    line.push('\n');
    line
}

fn colour(state: State) -> &'static str {
    match state {
        State::Up => GREEN,
        State::Busy | State::Trial | State::Unknown | State::Draining | State::Drained => YELLOW,
        State::NotReady | State::Ejected | State::Misconfigured => RED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::{QueueState, RatesState, Summary};

    fn host(name: &str, state: State) -> HostState {
        HostState {
            name: name.to_owned(),
            url: String::new(),
            device: None,
            state,
            why: None,
            until_seconds: None,
            draining: false,
            in_flight: 1,
            slots: 2,
            capacity: 2,
            foreign: 0,
            weight: 1,
            speed: None,
            models: Vec::new(),
            vram_total_mb: None,
            vram_used_mb: None,
            problem: None,
            attempts: RatesState::default(),
        }
    }

    fn pool() -> PoolState {
        let mut busy = host("rtx-2080ti", State::Busy);
        busy.why = Some("it said that it is full; it is asked again in 4 s".to_owned());
        busy.slots = 1;
        let mut up = host("b", State::Up);
        up.models = vec!["embed:all-MiniLM-L6-v2".to_owned()];
        (up.vram_used_mb, up.vram_total_mb) = (Some(1536), Some(24_576));
        up.speed = Some(2.5);
        PoolState {
            version: "1".to_owned(),
            uptime_seconds: 0,
            policy: String::new(),
            ready: true,
            summary: Summary::default(),
            requests: RatesState::default(),
            queue: QueueState {
                waiting: 3,
                held_back: 0,
                bytes: 100,
                expected_wait_seconds: 1.25,
                oldest_wait_seconds: None,
                max_waiting: 512,
            },
            hosts: vec![busy, up],
        }
    }

    #[test]
    fn columns_are_aligned() {
        let expected = "\
HOST        STATE  SLOTS    FOREIGN  SPEED  VRAM         MODELS                  WHY
rtx-2080ti  busy   1/1 (2)  0        -      -            -                       it said that it is full; it is asked again in 4 s
b           up     1/2      0        2.50x  1.5/24.0 GB  embed:all-MiniLM-L6-v2  -
queue: 3 waiting, served in about 1.2 s
";
        assert_eq!(render(&pool(), false), expected);
    }

    #[test]
    fn colours_change_no_width() {
        let coloured = render(&pool(), true);
        assert!(coloured.contains("\x1b[33mbusy \x1b[0m"), "{coloured}");
        assert!(coloured.contains("\x1b[32mup   \x1b[0m"), "{coloured}");
        let plain = [GREEN, YELLOW, RED, BOLD, PLAIN]
            .iter()
            .fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(plain, render(&pool(), false));
    }

    #[test]
    fn long_lists_of_models_are_cut_between_characters() {
        let cut = models(&vec!["embed:ä".to_owned(); 9]);
        assert_eq!(cut.chars().count(), MAX_MODELS);
        assert!(cut.ends_with('…'));
    }

    #[test]
    fn a_pool_that_serves_nobody_says_so() {
        let mut down = pool();
        down.ready = false;
        down.queue.held_back = 2;
        let text = render(&down, false);
        assert!(text.contains("3 waiting, 2 of them for the limits of their keys, served"));
        down.queue.held_back = 0;
        down.queue.waiting = 0;
        assert!(render(&down, false).ends_with("queue: 0 waiting; no host can serve\n"));
    }
}
