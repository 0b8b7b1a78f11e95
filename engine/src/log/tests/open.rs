//! Appending, closing, opening.
use super::*;

#[test]
fn what_was_appended_is_there_after_a_clean_close_and_a_new_opening() {
    let disk = SimDisk::new();
    let (engine, report) = open(&disk);
    assert_eq!((report.tail, report.unclean, report.durable.position), (Tail::Clean, false, Position::ZERO));
    for number in 1..=300 {
        assert_eq!(done(engine.propose_and_wait(small(number))), (number, number));
    }
    let before = engine.durable();
    assert!(engine.segments().len() > 2, "{:?}", engine.segments());
    let read = read_all(&engine).unwrap();
    engine.shutdown().unwrap();
    assert_eq!(engine.propose_and_wait(small(999)), Outcome::NotDone(Reason::Closed));
    drop(engine);
    let (engine, report) = open(&disk);
    assert_eq!((report.durable, report.tail.clone(), report.unclean), (before, Tail::Clean, false));
    assert_eq!(read_all(&engine).unwrap(), read);
    assert_eq!(done(engine.propose_and_wait(small(301))), (301, 301));
    // Known from a sealed segment, from the active one, with another fingerprint.
    for number in [3, 299, 301] {
        let again = engine.propose_and_wait(small(number));
        assert_eq!(again, Outcome::Done { first: Position(number), last: Position(number), repeated: true });
    }
    let other = Proposal { fingerprint: 0, ..small(3) };
    assert_eq!(engine.propose_and_wait(other), Outcome::NotDone(Reason::PushIdReused));
}

#[test]
fn a_process_that_was_killed_loses_nothing_and_the_second_opening_changes_nothing() {
    let disk = SimDisk::new();
    let (engine, _) = open(&disk);
    for number in 1..=50 {
        done(engine.propose_and_wait(small(number)));
    }
    let disk = SimDisk::from_image(&disk.image());
    drop(engine);
    let (engine, report) = open(&disk);
    assert!(report.unclean);
    assert_eq!((report.tail, report.durable.position), (Tail::Clean, Position(50)));
    assert_eq!(read_all(&engine).unwrap().len(), 50);
    drop(engine);
    let before = disk.image();
    let (engine, report) = open(&disk);
    assert!(!report.unclean);
    assert_eq!(disk.image(), before);
    assert_eq!(done(engine.propose_and_wait(small(51))), (51, 51));
    assert_eq!(done(engine.propose_and_wait(small(50))), (50, 50));
}

#[test]
fn opening_reads_the_ends_of_sealed_segments_and_the_active_one_only() {
    let disk = SimDisk::new();
    let (engine, _) = open(&disk);
    let mut number = 0;
    while engine.segments().len() < 200 {
        number += 1;
        done(engine.propose_and_wait(proposal(number, vec![token(number, 900), token(number + 1_000_000, 900)])));
    }
    let all: u64 = engine.segments().iter().map(|segment| segment.bytes).sum();
    engine.shutdown().unwrap();
    drop(engine);
    let (engine, report) = open(&disk);
    // Header, trailer and push ids of each; the active segment once to walk, once to look beyond.
    let bound = 200 * (4096 + 256 + 800) + 3 * SEGMENT;
    assert!(report.bytes_read < bound, "{} of {all}", report.bytes_read);
    assert_eq!(read_all(&engine).unwrap().len() as u64, 2 * number);
}

#[test]
fn a_second_engine_is_refused_and_told_who_holds_the_directory() {
    let disk = SimDisk::new();
    let (engine, _) = open(&disk);
    let error = try_open(&disk, Driver::Inline, 8).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("test"), "{error}");
    drop(engine);
    open(&disk);
}

#[test]
fn conditions_are_judged_on_the_log_also_after_a_new_opening() {
    let disk = SimDisk::new();
    let (engine, _) = open(&disk);
    let check = |engine: &Engine, number, events: Vec<EventBody>, conditions: Vec<Condition>| {
        engine.propose_and_wait(Proposal { conditions, ..proposal(number, events) })
    };
    done(check(&engine, 1, vec![repo(1, "one")], vec![]));
    let taken = check(&engine, 2, vec![repo(2, "one")], vec![]);
    assert!(matches!(taken, Outcome::NotDone(Reason::Condition(Condition::NameFree { .. }))), "{taken:?}");
    done(check(&engine, 3, vec![moved(1, "feat/x", None, Some(1))], vec![]));
    let clash = check(&engine, 4, vec![moved(1, "feat", None, Some(1))], vec![]);
    assert_eq!(clash, Outcome::NotDone(Reason::RefNameClash { existing: "feat/x".into() }));
    let clash = check(&engine, 5, vec![moved(1, "feat/x/y", None, Some(1))], vec![]);
    assert_eq!(clash, Outcome::NotDone(Reason::RefNameClash { existing: "feat/x".into() }));
    engine.shutdown().unwrap();
    drop(engine);
    let (engine, _) = open(&disk);
    let stale = check(&engine, 6, vec![moved(1, "feat/x", Some(9), Some(2))], vec![]);
    assert!(matches!(stale, Outcome::NotDone(Reason::Condition(Condition::RefIs { .. }))), "{stale:?}");
    done(check(
        &engine,
        7,
        vec![moved(1, "feat/x", Some(1), Some(2))],
        vec![Condition::RepoAt(repo_id(1), Position(1))],
    ));
    assert_eq!(engine.last_position_of(repo_id(1)), Position(3));
    let gone = check(&engine, 8, vec![moved(3, "main", None, Some(1))], vec![]);
    assert_eq!(gone, Outcome::NotDone(Reason::Condition(Condition::RepoLive(repo_id(3)))));
}

#[test]
fn branches_of_a_repository_move_by_one_event_of_a_proposal_or_not_at_all() {
    let disk = SimDisk::new();
    let (engine, _) = open(&disk);
    done(engine.propose_and_wait(proposal(1, vec![repo(1, "one")])));
    // Each holds on the state before; the second would silently undo the first.
    let twice = vec![moved(1, "main", None, Some(1)), moved(1, "main", None, Some(2))];
    let refused = engine.propose_and_wait(proposal(2, twice));
    assert!(matches!(refused, Outcome::NotDone(Reason::Invalid(_))), "{refused:?}");
    done(engine.propose_and_wait(proposal(3, vec![moved(1, "main", None, Some(3))])));
}

#[test]
fn the_chain_is_known_at_the_end_of_every_group_and_nowhere_else() {
    let disk = SimDisk::new();
    let (engine, _) = open(&disk);
    let mut ends = BTreeMap::new();
    for number in 1..=120 {
        let events = vec![token(2 * number, 30), token(2 * number + 1, 30)];
        done(engine.propose_and_wait(proposal(number, events)));
        ends.insert(2 * number, engine.durable().chain);
    }
    for position in 1..=240 {
        assert_eq!(engine.chain_at(Position(position)).unwrap(), ends.get(&position).copied(), "{position}");
    }
    assert_eq!(engine.chain_at(Position(241)).unwrap(), None);
    let mut read = 0;
    for segment in engine.segments() {
        for group in engine.read_segment(segment.first).unwrap() {
            read += group.unwrap().events.len();
        }
    }
    assert_eq!(read, 240);
}
