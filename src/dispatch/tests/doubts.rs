//! Answers that a sibling may not give, and failures that are nobody's but ours.

use super::*;

fn redirect() -> Verdict {
    doubtful(StatusCode::FOUND, Doubt::Front)
}

fn forbidden() -> Verdict {
    doubtful(StatusCode::FORBIDDEN, Doubt::Forbidden)
}

fn ours() -> Verdict {
    Verdict::Ours {
        reason: "too many open files".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_one_host_lacks_is_computed_by_its_sibling_and_nobody_is_blamed() {
    let scene = Scene::new(vec![vec![not_found()], vec![]]);
    assert_eq!(scene.run().await.0, Ok(StatusCode::OK));
    assert_eq!(scene.calls(), [0, 1]);
    assert_eq!(scene.serving(), [true, true]);
}

#[tokio::test(start_paused = true)]
async fn what_one_host_does_not_take_another_may_and_nobody_is_blamed() {
    let limit = || doubtful(StatusCode::PAYLOAD_TOO_LARGE, Doubt::Limit);
    for last in [limit(), not_found(), redirect()] {
        let scene = Scene::new(vec![vec![limit()], vec![limit()], vec![last]]);
        let (result, _) = scene.run().await;
        assert_eq!(result, Ok(StatusCode::PAYLOAD_TOO_LARGE));
        assert_eq!(scene.calls(), [0, 1, 2], "each once");
        assert_eq!(scene.serving(), [true, true, true]);
    }
    let scene = Scene::new(vec![vec![limit()], vec![limit()], vec![]]);
    assert_eq!(scene.run().await.0, Ok(StatusCode::OK));
    assert_eq!(scene.serving(), [true, true, true]);
}

#[tokio::test(start_paused = true)]
async fn errors_of_hosts_that_may_lack_the_model_do_not_end_the_request() {
    let three = || {
        vec![
            vec![server_error()],
            vec![server_error()],
            vec![server_error()],
        ]
    };
    let mut scripts = three();
    scripts.push(vec![]);
    let scene = Scene::new(scripts);
    scene.forget_models();
    assert_eq!(scene.run().await.0, Ok(StatusCode::OK));
    assert_eq!(scene.calls(), [0, 1, 2, 3]);

    let scene = Scene::new(three());
    scene.forget_models();
    assert_eq!(scene.run().await.0, Ok(StatusCode::INTERNAL_SERVER_ERROR));
    assert_eq!(scene.calls(), [0, 1, 2], "each once");
    assert_eq!(scene.serving(), [true, true, true]);
}

#[tokio::test(start_paused = true)]
async fn what_a_front_says_reaches_the_client_only_if_every_host_says_so() {
    let three = || vec![vec![redirect()], vec![redirect()], vec![redirect()]];
    let scene = Scene::new(three());
    assert_eq!(scene.run().await.0, Ok(StatusCode::FOUND));
    assert_eq!(scene.calls(), [0, 1, 2], "each once, however many");
    assert_eq!(scene.serving(), [true, true, true]);

    for (other, expected) in [
        (server_error(), Ok(StatusCode::INTERNAL_SERVER_ERROR)),
        (not_found(), Ok(StatusCode::NOT_FOUND)),
        (forbidden(), Ok(StatusCode::FORBIDDEN)),
    ] {
        let scene = Scene::new(vec![vec![other], vec![redirect()]]);
        assert_eq!(scene.run().await.0, expected);
        assert_eq!(scene.serving(), [true, true]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_front_that_stands_in_the_way_of_one_host_is_that_hosts_fault() {
    let scene = Scene::new(vec![vec![redirect()], vec![]]);
    assert_eq!(scene.run().await.0, Ok(StatusCode::OK));
    assert_eq!(scene.serving(), [false, true]);
}

#[tokio::test(start_paused = true)]
async fn what_a_front_says_is_not_the_last_word_while_a_host_is_full() {
    let always_busy = || (0..20).map(|_| busy(20)).collect();
    for doubtful in [redirect(), not_found()] {
        let scene = Scene::new(vec![vec![doubtful], always_busy()]);
        assert_eq!(scene.run().await.0, Err(Refusal::Deadline));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_front_says_is_not_the_last_word_where_a_host_broke() {
    let scene = Scene::new(vec![vec![reset()], vec![redirect()]]);
    let pool = scene.pool.clone();
    tokio::spawn(async move {
        tokio::time::sleep(10 * SECOND).await;
        for (id, _) in pool.hosts() {
            pool.checked(
                id,
                &Check::Good {
                    slots: Tells::Nothing,
                },
            );
        }
    });
    assert_eq!(scene.run().await.0, Ok(StatusCode::OK));
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_hand_is_delivered_once_the_last_host_that_might_know_better_is_gone() {
    let scene = Scene::new(vec![vec![busy(20)], vec![redirect()]]);
    let pool = scene.pool.clone();
    tokio::spawn(async move {
        tokio::time::sleep(5 * SECOND).await;
        let gone = Check::Failed {
            reason: "gone".to_owned(),
            reachable: false,
        };
        pool.checked(pool.hosts()[0].0, &gone);
    });
    let (result, journal) = scene.run().await;
    assert_eq!(result, Ok(StatusCode::FOUND));
    assert!(journal.queued() < 5 * SECOND, "{journal:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_two_hosts_forbid_is_forbidden() {
    let scene = Scene::new(vec![vec![forbidden()], vec![forbidden()], vec![]]);
    assert_eq!(scene.run().await.0, Ok(StatusCode::FORBIDDEN));
    assert_eq!(scene.calls(), [0, 1], "the third host is spared");
    assert_eq!(scene.serving(), [true, true, true]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_this_machine_is_held_against_nobody() {
    let scene = Scene::new(vec![vec![ours(), ours()], vec![ours(), ours()]]);
    let (result, journal) = scene.run().await;
    assert_eq!(result, Ok(StatusCode::OK));
    let calls = scene.calls();
    assert_eq!(calls.len(), 5, "{calls:?}");
    assert_ne!(calls[0], calls[1], "a sibling first");
    assert_eq!(scene.serving(), [true, true]);
    let pauses = journal.queued();
    assert!(pauses >= SECOND / 10 && pauses < SECOND, "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_stays_short_of_something_refuses_in_time_and_tries_at_a_bounded_rate() {
    let lasting = || (0..1000).map(|_| ours()).collect();
    let scene = Scene::new(vec![lasting()]);
    let (result, journal) = scene.run().await;
    assert_eq!(result, Err(Refusal::Deadline));
    assert!(journal.queued() >= 30 * SECOND, "{journal:?}");
    let attempts = scene.calls().len();
    assert!(attempts < 60, "{attempts} attempts in 30 s");
    assert_eq!(scene.serving(), [true]);
}
