//! Batches of more than hosts take, and parts that can't be right.

use super::batches::{Limit, Pooled, Warp, expected};
use super::*;

const OK: StatusCode = StatusCode::OK;

/// Asks for a hundred texts, and returns the sizes of the attempts.
async fn hundred(pooled: &Pooled) -> Vec<usize> {
    let answered = pooled.asks(100, 30).await;
    assert_eq!(answered, Ok((OK, expected(100, 30))));
    pooled.sizes()
}

fn longest(sizes: &[usize]) -> usize {
    sizes.iter().copied().max().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_more_than_any_host_takes_is_cut_though_nothing_is_known_yet() {
    for hosts in [1, 4] {
        let pooled = Pooled::with(hosts, 1, Limit::Told(32));
        let sizes = hundred(&pooled).await;
        assert!(sizes.len() == 4 && longest(&sizes) <= 32, "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), 100);
        let view = pooled.pool.view();
        assert!(view.hosts.iter().all(|host| host.in_flight == 0));
    }
    // However many it is: that is no matter of `batching.max_items`.
    let pooled = Pooled::with(2, 1, Limit::Told(32));
    assert_eq!(pooled.asks(300, 9).await, Ok((OK, expected(300, 9))));
    assert_eq!(longest(&pooled.sizes()), 32);
}

#[tokio::test(start_paused = true)]
async fn it_is_cut_for_hosts_that_others_use_too() {
    let pooled = Arc::new(Pooled::with(1, 1, Limit::Told(32)).acquainted().await);
    let asks = [100, 1, 100, 1].map(|items| {
        let pooled = Arc::clone(&pooled);
        tokio::spawn(async move {
            let answered = pooled.asks(items, 9).await;
            assert_eq!(answered, Ok((OK, expected(items, 9))));
        })
    });
    for ask in asks {
        ask.await.unwrap();
    }
    assert_eq!(longest(&pooled.sizes()), 32);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_a_host_only_shows_is_met_once() {
    let pooled = Pooled::with(1, 1, Limit::Untold(40));
    let sizes = hundred(&pooled).await;
    assert_eq!((sizes[0], longest(&sizes[1..])), (100, 40), "{sizes:?}");
    let sizes = hundred(&pooled).await;
    assert_eq!(longest(&sizes), 40, "{sizes:?}");
    assert!(pooled.pool.view().hosts[0].phase.is_serving());
}

#[tokio::test(start_paused = true)]
async fn hosts_that_take_less_than_they_tell_are_given_less() {
    let pooled = Pooled::with(2, 1, Limit::Told(50));
    let lies = [10, 10, 5, 5].map(|most| pooled.upstream.too_many(most));
    pooled.upstream.script.lock().unwrap().extend(lies);
    let sizes = hundred(&pooled).await;
    assert!(sizes.contains(&50), "{sizes:?}");
    assert_eq!(longest(&sizes[sizes.len() - 10..]), 5, "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_takes_all_of_it_is_preferred() {
    let pooled = Pooled::with(3, 1, Limit::Told(32));
    let (able, _) = pooled.pool.hosts()[1];
    let info = Info {
        loaded_models: vec!["embed:m".to_owned()],
        ..Info::default()
    };
    pooled.pool.told(able, info);
    let call = pooled.call(100, 30);
    let journal = Journal::default();
    // It refuses what it is sent, but that shows where it went.
    _ = pooled.dispatcher.dispatch(&call, &journal).await;
    let first = journal.story().attempts.swap_remove(0);
    assert_eq!((first.host.as_str(), pooled.sizes()[0]), ("h1", 100));
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_cut_is_refused_by_the_host() {
    let pooled = Pooled::with(2, 1, Limit::Told(32));
    let mut call = pooled.call(100, 30);
    call.headers
        .insert("content-digest", "sha-256=:x:".parse().unwrap());
    let delivery = pooled.dispatcher.dispatch(&call, &Journal::default()).await;
    assert_eq!(delivery.unwrap().answer.status.as_u16(), 422);
    assert_eq!(pooled.sizes(), [100, 100], "each was asked once");
}

#[tokio::test(start_paused = true)]
async fn an_error_about_a_part_is_the_answer_where_no_host_takes_the_whole() {
    let pooled = Pooled::with(1, 1, Limit::Told(32));
    let text = format!("{}70", "x".repeat(70 * 7 % 30));
    *pooled.upstream.spoiled.lock().unwrap() = Some((text, StatusCode::BAD_REQUEST));
    *pooled.upstream.complaint.lock().unwrap() = "{\"detail\":\"texts[0] is bad\"}";
    let (status, body) = pooled.asks(100, 30).await.unwrap();
    let sizes = pooled.sizes();
    assert_eq!((sizes.len(), longest(&sizes)), (3, 32), "{sizes:?}");
    // The third part begins where the second ends.
    let of_whole = format!("{{\"detail\":\"texts[{}] is bad\"}}", sizes[0] + sizes[1]);
    assert_eq!((status.as_u16(), body), (400, of_whole));
}

#[tokio::test(start_paused = true)]
async fn parts_that_fail_are_retried_and_what_breaks_hosts_ends() {
    let pooled = Pooled::with(2, 1, Limit::Told(32));
    pooled.upstream.script.lock().unwrap().push_back(reset());
    let sizes = hundred(&pooled).await;
    assert_eq!(sizes.iter().sum::<usize>(), 132, "{sizes:?}");
    let pooled = Pooled::with(4, 1, Limit::Told(32));
    let all = (0..100).map(|_| reset());
    pooled.upstream.script.lock().unwrap().extend(all);
    assert_eq!(pooled.asks(100, 30).await, Err(Refusal::HostsFailed));
    assert!(pooled.sizes().len() <= 10, "it is not sent for ever");
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_which_little_is_known_shares_a_batch_out() {
    let pooled = Pooled::with(4, 1, Limit::None);
    for _ in 0..3 {
        pooled.asks(2, 30).await.unwrap();
    }
    pooled.sizes();
    assert_eq!(hundred(&pooled).await, [100], "too little");
    let sizes = hundred(&pooled).await;
    assert!((4..=8).contains(&sizes.len()), "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_cannot_be_right_is_its_hosts_fault_and_computed_by_another() {
    let warps: [(&str, Warp); 3] = [
        ("a row too few", |right| {
            let (_, rest) = right.split_once("],").unwrap();
            format!("{{\"embeddings\":[{rest}")
        }),
        ("half of it", |right| right[..right.len() / 2].to_owned()),
        ("a number too many", |right| right.replacen("[[", "[[7,", 1)),
    ];
    for (wrong, warp) in warps {
        let pooled = Pooled::new(4, 1).await;
        *pooled.upstream.warp.lock().unwrap() = Some(warp);
        let sizes = hundred(&pooled).await;
        assert!(longest(&sizes) < 50, "only that part again: {sizes:?}");
        let view = pooled.pool.view();
        let out = view.hosts.iter().filter(|host| !host.phase.is_serving());
        assert_eq!(out.count(), 1, "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_batches_err_again_and_again_pays_for_each_once() {
    let pooled = Pooled::new(4, 1).await;
    let text = format!("{}70", "x".repeat(70 * 7 % 30));
    *pooled.upstream.spoiled.lock().unwrap() = Some((text, StatusCode::BAD_REQUEST));
    let mut asked = Vec::new();
    for _ in 0..4 {
        assert_eq!(pooled.asks(100, 30).await.unwrap().0.as_u16(), 400);
        asked.push(pooled.sizes().len() > 1);
    }
    assert_eq!(asked, [true, true, false, false], "cut, and as a whole");
    tokio::time::advance(10 * SECOND).await;
    assert_eq!(pooled.asks(100, 30).await.unwrap().0.as_u16(), 400);
    assert!(pooled.sizes().len() > 1, "after a while");
}
