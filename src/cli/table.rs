//! The pool as a table for people. Pure: text in, text out. Texts are fit to be shown already.

use gpu_bridge_upkeep::{columns as columns_of, cut};

use crate::admin::view::{Condition, HostState, PoolState};

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

const HEADINGS: [&str; 8] = [
    "HOST", "STATE", "SLOTS", "FOREIGN", "SPEED", "VRAM", "MODELS", "WHY",
];
const WHY: usize = HEADINGS.len() - 1;
/// Models of a host that are named in a line.
const MOST_MODELS: usize = 8;
/// What is left out first where a terminal is too narrow for all: models, memory, speed, foreign, slots.
const LEFT_OUT: [usize; 5] = [6, 5, 4, 3, 2];
/// Between columns.
const GAP: usize = 2;
/// A reason is cut to that before a column is left out for it; shorter, it goes itself.
const READABLE: usize = 40;
const TOO_SHORT: usize = 10;

type Row = [String; HEADINGS.len()];

/// The whole text, with a line for each host and one for the queue. `width`: of the terminal; no line
/// of the table is longer. `None`: nothing is cut or left out.
pub(super) fn render(pool: &PoolState, colours: bool, width: Option<usize>) -> String {
    let headings = HEADINGS.map(str::to_owned);
    let mut rows: Vec<Row> = pool.hosts.iter().map(row).collect();
    let columns = columns(&widths(&headings, &rows), width);
    for row in &mut rows {
        for column in &columns {
            row[column.index] = cut(&row[column.index], column.width).into_owned();
        }
    }
    let heading = colours.then_some((0, BOLD));
    let mut text = line(&headings, &columns, heading);
    for (host, row) in pool.hosts.iter().zip(&rows) {
        let style = colours.then(|| (1, colour(host.state)));
        text.push_str(&line(row, &columns, style));
    }
    text.push_str(&queue(pool));
    text.push_str(&configuration(pool));
    text
}

/// A column that is shown.
struct Column {
    index: usize,
    width: usize,
}

/// Those for which there is room.
fn columns(widths: &[usize; HEADINGS.len()], room: Option<usize>) -> Vec<Column> {
    let all = widths.iter().copied().enumerate();
    let mut columns: Vec<_> = all.map(|(index, width)| Column { index, width }).collect();
    let Some(room) = room else { return columns };
    let taken = |columns: &[Column]| -> usize {
        let width = |column: &Column| match column.index {
            WHY => 0,
            _ => column.width + GAP,
        };
        columns.iter().map(width).sum()
    };
    let reason = widths[WHY].min(READABLE);
    for left_out in LEFT_OUT {
        if taken(&columns) + reason > room {
            columns.retain(|column| column.index != left_out);
        }
    }
    let rest = room.saturating_sub(taken(&columns));
    match columns.last_mut() {
        Some(why) if rest >= TOO_SHORT.min(why.width) => why.width = why.width.min(rest),
        _ => {
            columns.pop();
        }
    }
    columns
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
        models(host),
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

fn models(host: &HostState) -> String {
    let HostState {
        models,
        more_models,
        ..
    } = host;
    if models.is_empty() {
        return "-".to_owned();
    }
    let mut told: Vec<String> = models.iter().take(MOST_MODELS).cloned().collect();
    let more = models.len() - told.len() + more_models;
    if more > 0 {
        told.push(format!("+{more}"));
    }
    told.join(" ")
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
            *width = (*width).max(columns_of(cell));
        }
    }
    widths
}

/// What the file of the configuration says otherwise than what runs.
fn configuration(pool: &PoolState) -> String {
    let state = &pool.configuration;
    let refused = state
        .refused
        .iter()
        .map(|text| format!("refused: {text}\n"));
    let restart = state
        .needs_restart
        .iter()
        .map(|text| format!("needs a restart: {text}\n"));
    refused.chain(restart).collect()
}

/// `style`: the column that it is for; the first stands for the whole line.
fn line(row: &Row, columns: &[Column], style: Option<(usize, &str)>) -> String {
    let cells = columns.iter().map(|column| {
        let (cell, width) = (&row[column.index], column.width);
        let cell = if column.index == WHY {
            cell.clone()
        } else {
            let padding = " ".repeat(width.saturating_sub(columns_of(cell)));
            format!("{cell}{padding}")
        };
        match style {
            Some((styled, style)) if styled == 0 || styled == column.index => {
                format!("{style}{cell}{PLAIN}")
            }
            _ => cell,
        }
    });
    let mut line = cells.collect::<Vec<_>>().join("  ");
    line.push('\n');
    line
}

fn colour(state: Condition) -> &'static str {
    match state {
        Condition::Up => GREEN,
        Condition::Busy
        | Condition::Trial
        | Condition::Unknown
        | Condition::Draining
        | Condition::Drained => YELLOW,
        Condition::NotReady | Condition::Ejected | Condition::Misconfigured => RED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::{ConfigurationState, QueueState, RatesState, ReshapedState, Summary};

    fn host(name: &str, state: Condition) -> HostState {
        HostState {
            name: name.to_owned(),
            state,
            in_flight: 1,
            slots: 2,
            capacity: 2,
            weight: 1,
            ..HostState::default()
        }
    }

    fn pool() -> PoolState {
        let mut busy = host("rtx-2080ti", Condition::Busy);
        busy.why = Some("it said that it is full; it is asked again in 4 s".to_owned());
        busy.slots = 1;
        let mut up = host("b", Condition::Up);
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
            reshaped: ReshapedState::default(),
            audits: false,
            configuration: ConfigurationState::default(),
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
        assert_eq!(render(&pool(), false, None), expected);
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let mut pool = pool();
        pool.hosts[1].models = vec!["通义/嵌入".to_owned()];
        let table = render(&pool, false, None);
        let why = |line: &str, sign: &str| columns_of(&line[..line.find(sign).unwrap()]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(why(lines[0], "WHY"), why(lines[1], "it said"));
        assert_eq!(why(lines[0], "WHY"), columns_of(lines[2]) - 1);
    }

    #[test]
    fn colours_change_no_width() {
        let coloured = render(&pool(), true, None);
        assert!(coloured.contains("\x1b[33mbusy \x1b[0m"), "{coloured}");
        assert!(coloured.contains("\x1b[32mup   \x1b[0m"), "{coloured}");
        let plain = [GREEN, YELLOW, RED, BOLD, PLAIN]
            .iter()
            .fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(plain, render(&pool(), false, None));
    }

    #[test]
    fn narrow_terminals_show_what_matters_most_and_wrap_nothing() {
        let at = |width: usize| render(&pool(), false, Some(width));
        assert_eq!(at(200), render(&pool(), false, None));
        for width in 1..200 {
            let table = at(width);
            let lines = table.lines().take(3);
            let longest = lines.map(|line| line.chars().count()).max();
            assert!(longest <= Some(width.max(17)), "{width}: {table}");
        }
        let heading = |width| {
            at(width)
                .lines()
                .next()
                .unwrap()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(heading(100), "HOST STATE SLOTS FOREIGN SPEED VRAM WHY");
        assert_eq!(heading(80), "HOST STATE SLOTS FOREIGN WHY");
        assert_eq!(heading(60), "HOST STATE WHY");
        assert_eq!(heading(20), "HOST STATE");
        assert!(
            at(60).contains("busy   it said that it is full; it is asked aga…\n"),
            "{}",
            at(60)
        );
    }

    #[test]
    fn a_file_that_does_not_run_is_told() {
        let mut pool = pool();
        pool.configuration.refused = vec!["f:1:1: wrong".to_owned()];
        pool.configuration.needs_restart = vec!["listen: a → b".to_owned()];
        let table = render(&pool, false, Some(60));
        assert!(
            table.ends_with("refused: f:1:1: wrong\nneeds a restart: listen: a → b\n"),
            "{table}"
        );
    }

    #[test]
    fn a_pool_that_serves_nobody_says_so() {
        let mut down = pool();
        down.ready = false;
        down.queue.held_back = 2;
        let text = render(&down, false, None);
        assert!(text.contains("3 waiting, 2 of them for the limits of their keys, served"));
        down.queue.held_back = 0;
        down.queue.waiting = 0;
        assert!(render(&down, false, None).ends_with("queue: 0 waiting; no host can serve\n"));
    }
}
