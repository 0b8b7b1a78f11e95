//! Threads, groups, large proposals, followers.
use super::*;

#[test]
fn sixteen_threads_get_distinct_dense_positions_and_followers_see_them_in_order() {
    let disk = SimDisk::new();
    let (engine, _) = try_open(&disk, Driver::Threads, 11).unwrap();
    let mut positions = std::thread::scope(|scope| {
        let run = |thread: u64| {
            let engine = engine.clone();
            move || (0..40).map(|n| done(engine.propose_and_wait(small(1 + thread * 40 + n))).0).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..16).map(|thread| scope.spawn(run(thread))).collect();
        let mut follower = engine.follow(Position(1)).unwrap();
        let mut next = 1;
        while next <= 640 {
            let group = follower.next(Duration::from_secs(10)).unwrap().expect("a group comes");
            assert_eq!(group.events[0].position.0, next);
            next += group.events.len() as u64;
        }
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    positions.sort_unstable();
    assert_eq!(positions, (1..=640).collect::<Vec<_>>());
    engine.shutdown().unwrap();
    drop(engine);
    let (engine, report) = open(&disk);
    assert_eq!(report.tail, Tail::Clean);
    assert_eq!(read_all(&engine).unwrap().len(), 640);
}

#[test]
fn a_proposal_larger_than_a_frame_is_one_group() {
    let disk = SimDisk::new();
    let (engine, _) = open(&disk);
    let names = crate::limits::FRAME_BYTES_MAX as usize / 4_000;
    let release = |number: u8| {
        EventBody::ReleasePublished(crate::event::ReleasePublished {
            repo: repo_id(1),
            tag: format!("v{number}"),
            channel: "stable".into(),
            is_draft: false,
            record: vec![b'1'; 3_990 * names / 2],
        })
    };
    done(engine.propose_and_wait(proposal(1, vec![repo(1, "one")])));
    let outcome = engine.propose_and_wait(proposal(2, (0..5).map(release).collect()));
    if let Outcome::NotDone(Reason::Invalid(why)) = &outcome {
        panic!("{why}");
    }
    assert_eq!(done(outcome), (2, 6));
    let mut follower = engine.follow(Position(3)).unwrap();
    assert_eq!(follower.next(Duration::ZERO).unwrap().unwrap().events.len(), 5);
    drop(follower);
    let disk = SimDisk::from_image(&disk.image());
    let (engine, _) = open(&disk);
    assert_eq!(read_all(&engine).unwrap().len(), 6);
}

#[test]
fn an_answer_may_propose_again() {
    let disk = SimDisk::new();
    let (engine, _) = try_open(&disk, Driver::Threads, 11).unwrap();
    let (send, receive) = crossbeam_channel::bounded(1);
    let again = engine.clone();
    engine.propose(
        small(1),
        Box::new(move |_| {
            again.propose(small(2), Box::new(move |outcome| send.send(outcome).unwrap()));
        }),
    );
    assert_eq!(done(receive.recv().unwrap()), (2, 2));
}

#[test]
fn a_proposal_that_meets_a_shutdown_is_answered_all_the_same() {
    for round in 0..100 {
        let (engine, _) = try_open(&SimDisk::new(), Driver::Threads, round).unwrap();
        let (send, answers) = crossbeam_channel::unbounded();
        let over = std::sync::atomic::AtomicBool::new(false);
        let proposed: u64 = std::thread::scope(|scope| {
            let propose = |thread: u64| {
                let (engine, send, over) = (engine.clone(), send.clone(), &over);
                scope.spawn(move || {
                    let mut count = 0;
                    while !over.load(std::sync::atomic::Ordering::SeqCst) {
                        count += 1;
                        let send = send.clone();
                        engine.propose(small(thread << 32 | count), Box::new(move |_| send.send(()).unwrap()));
                    }
                    count
                })
            };
            let threads: Vec<_> = (1..4).map(propose).collect();
            answers.recv().unwrap();
            engine.shutdown().unwrap();
            over.store(true, std::sync::atomic::Ordering::SeqCst);
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        for number in 1..proposed {
            let answer = answers.recv_timeout(Duration::from_secs(5));
            assert!(answer.is_ok(), "round {round}: {number} of {proposed} proposals were answered");
        }
    }
}
