//! The writer, step by step: what it asks for in which order, whatever becomes of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;

use proptest::prelude::*;

mod fleet;

use super::*;
use crate::{
    engine::{Condition, SegmentRule},
    event::{EventBody, RepoRecord, Visibility},
    id::{PushId, RepoId},
    log::header::BLOCK_LEN,
};

const SEGMENT: u64 = 16 << 10;

fn writer() -> WriterCore {
    writer_of(None)
}

fn writer_of(shared: Option<SegmentRule>) -> WriterCore {
    let active = Active {
        first: Position(1),
        sequence: 1,
        salt: [1; 16],
        capacity: SEGMENT,
        end: BLOCK_LEN as u64,
        index: Vec::new(),
    };
    let durable = Durable { position: Position::ZERO, chain: ChainHash([0; 32]) };
    let found = Handover {
        log: LogId::from_random([9; 16]),
        state: State::default(),
        pushes: PushIds::default(),
        durable,
        sequence: 1,
        time_ms: 0,
        active,
        segments: 1,
        shared,
    };
    WriterCore::new(found, SEGMENT)
}

/// Creates a repository; its name is taken afterwards.
fn create(number: u64) -> Proposal {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let record = RepoRecord {
        repo: RepoId(id),
        owner: "ada".into(),
        slug: format!("r{number}"),
        domain: "code".into(),
        default_branch: String::new(),
        visibility: Visibility::Public,
        created_ms: 1,
    };
    let free = Condition::NameFree { owner: "ada".into(), slug: record.slug.clone() };
    Proposal {
        push: PushId(id),
        fingerprint: number,
        actor: "a".repeat(200),
        conditions: vec![free],
        events: vec![EventBody::RepoCreated(record)],
    }
}

/// The same name for another repository: refused while the first one is there.
fn rival(number: u64) -> Proposal {
    let mut proposal = create(number);
    proposal.push.0[15] = 1;
    if let EventBody::RepoCreated(record) = &mut proposal.events[0] {
        record.repo.0[15] = 1;
    }
    proposal
}

fn names(out: &[Output]) -> Vec<&'static str> {
    let name = |output: &Output| match output {
        Output::Append { .. } => "append",
        Output::Adopt { .. } => "adopt",
        Output::Look { .. } => "look",
        Output::ReplyLook(..) => "seen",
        Output::Prepare { .. } => "prepare",
        Output::Activate(_) => "activate",
        Output::Seal { .. } => "seal",
        Output::Publish(_) => "publish",
        Output::Reply(..) => "reply",
        Output::Poisoned(_) => "poisoned",
        Output::Stopped(_) => "stopped",
    };
    out.iter().map(name).collect()
}

fn answers(out: &[Output]) -> Vec<(Ticket, Outcome)> {
    let answer = |output: &Output| match output {
        Output::Reply(ticket, outcome) => Some((*ticket, outcome.clone())),
        _ => None,
    };
    out.iter().filter_map(answer).collect()
}

#[test]
fn nothing_is_shown_or_answered_before_the_sync_and_nothing_else_is_written_meanwhile() {
    let mut writer = writer();
    assert_eq!(names(&writer.step(Input::Proposals(vec![(1, create(1))]), 5)), ["append"]);
    assert_eq!(names(&writer.step(Input::Proposals(vec![(2, create(2)), (3, create(3))]), 6)), [""; 0]);
    let out = writer.step(Input::Appended(Io::Done), 7);
    assert_eq!(names(&out), ["publish", "reply", "append"], "shown, then answered, then the next group");
    assert_eq!(names(&writer.step(Input::Appended(Io::Done), 7)), ["publish", "reply", "reply"]);
    assert_eq!(writer.durable.position, Position(3));
}

#[test]
fn a_group_without_room_never_happened() {
    let mut writer = writer();
    writer.step(Input::Proposals(vec![(1, create(1)), (2, rival(1)), (3, create(1))]), 5);
    let answered = answers(&writer.step(Input::Appended(Io::Full), 7));
    assert_eq!(answered[0], (1, Outcome::NotDone(Reason::Full)));
    assert!(matches!(answered[1].1, Outcome::NotDone(Reason::Condition(_))), "it was judged behind the first");
    assert_eq!(answered[2], (3, Outcome::NotDone(Reason::Full)), "a repeat of what never happened");
    // Neither the name nor the push id is remembered.
    writer.step(Input::Proposals(vec![(4, rival(1)), (5, create(2))]), 6);
    let answered = answers(&writer.step(Input::Appended(Io::Done), 7));
    assert!(
        answered.iter().all(|(_, outcome)| matches!(outcome, Outcome::Done { repeated: false, .. })),
        "{answered:?}"
    );
    assert_eq!(writer.durable.position, Position(2));
}

#[test]
fn a_group_that_stands_in_the_bucket_has_happened_though_there_is_no_room_for_its_copy() {
    let mut writer = writer_of(Some(SegmentRule { bytes: 1 << 20, slots: 1_000 }));
    writer.step(Input::Proposals(vec![(1, create(1)), (2, create(1))]), 5);
    writer.step(Input::Proposals(vec![(3, create(3))]), 6);
    let answered = answers(&writer.step(Input::Appended(Io::Full), 7));
    let unknown = Outcome::Unknown(create(1).push);
    assert_eq!(answered, [(1, unknown.clone()), (2, unknown), (3, Outcome::NotDone(Reason::Full))]);
    assert_eq!(writer.durable.position, Position::ZERO, "nothing is shown that is not here");
    // With room again what stands there is looked up before anything is decided.
    assert_eq!(names(&writer.step(Input::Proposals(vec![(4, create(4))]), 7)), ["look"]);
}

#[test]
fn where_nobody_knows_whether_a_group_stands_nothing_is_refused_on_its_state() {
    let mut writer = writer_of(Some(SegmentRule { bytes: 1 << 20, slots: 1_000 }));
    writer.step(Input::Proposals(vec![(1, create(1)), (2, rival(1))]), 5);
    let answered = answers(&writer.step(Input::Unsure("no answer".into()), 7));
    assert_eq!(answered[0], (1, Outcome::Unknown(create(1).push)));
    // Its condition may have failed on a state that had long been another: no slot of this group proves that it was the newest.
    assert_eq!(answered[1], (2, Outcome::NotDone(Reason::Unavailable("no answer".into()))));
}

#[test]
fn after_a_lost_write_its_callers_know_nothing_and_nothing_is_written_any_more() {
    let mut writer = writer();
    writer.step(Input::Proposals(vec![(1, create(1))]), 5);
    writer.step(Input::Appended(Io::Done), 7);
    writer.step(Input::Proposals(vec![(2, create(2)), (3, create(1)), (4, rival(1))]), 6);
    writer.step(Input::Proposals(vec![(5, create(5))]), 7);
    let out = writer.step(Input::Appended(Io::Lost("EIO".into())), 7);
    assert!(out.iter().any(|output| matches!(output, Output::Poisoned(why) if why == "EIO")));
    let answered: BTreeMap<Ticket, Outcome> = answers(&out).into_iter().collect();
    assert_eq!(answered[&2], Outcome::Unknown(create(2).push));
    assert!(matches!(answered[&3], Outcome::Done { repeated: true, .. }), "that one was durable before");
    assert!(matches!(answered[&4], Outcome::NotDone(Reason::Condition(_))));
    assert!(matches!(answered[&5], Outcome::NotDone(Reason::ReadOnly(_))));
    let out = writer.step(Input::Proposals(vec![(6, create(6))]), 8);
    assert!(matches!(answers(&out)[..], [(6, Outcome::NotDone(Reason::ReadOnly(_)))]) && out.len() == 1);
    assert!(
        matches!(writer.step(Input::Shutdown, 7)[..], [Output::Stopped(false)]),
        "no mark vouches for what nobody knows"
    );
}

/// Steps a writer as a driver does, each piece of I/O ending as `io` says; what it asked for, in order.
fn drive(writer: &mut WriterCore, first: Input, io: &mut dyn FnMut(&str) -> Io) -> (Vec<&'static str>, Vec<Output>) {
    let (mut asked, mut all) = (Vec::new(), Vec::new());
    let mut inputs = VecDeque::from([first]);
    while let Some(input) = inputs.pop_front() {
        let out = writer.step(input, 5);
        for (name, output) in names(&out).into_iter().zip(&out) {
            match output {
                Output::Append { .. } | Output::Adopt { .. } => inputs.push_back(Input::Appended(io(name))),
                Output::Prepare { .. } => inputs.push_back(Input::Prepared(io(name), [7; 16])),
                Output::Activate(_) => inputs.push_back(Input::Activated(io(name))),
                Output::Seal { .. } => inputs.push_back(Input::Sealed(io(name))),
                Output::Publish(_) | Output::Reply(..) | Output::Poisoned(_) | Output::Stopped(_) => {}
                Output::Look { .. } | Output::ReplyLook(..) => panic!("a local log has nobody to look for"),
            }
            asked.push(name);
        }
        all.extend(out);
    }
    (asked, all)
}

/// Looks of a writer of a shared log until it has written so many groups. `busy`: somebody always waits behind the one under way.
fn looks_in(groups: u64, busy: bool) -> usize {
    let mut writer = writer_of(Some(SegmentRule { bytes: 1 << 20, slots: 1_000 }));
    // The state machine believes in a file of this size.
    (writer.active.capacity, writer.segment_bytes) = (1 << 20, 1 << 20);
    let (mut looks, mut number) = (0, 0);
    let mut propose = |writer: &mut WriterCore| {
        number += 1;
        writer.step(Input::Proposals(vec![(number, create(number))]), 10_000)
    };
    let mut out = propose(&mut writer);
    while writer.sequence <= groups {
        out = match names(&out).last() {
            Some(&"look") => {
                looks += 1;
                writer.step(Input::Looked(Ok(Looked { groups: Vec::new(), after: After::Nothing })), 10_000)
            }
            Some(&"append") => {
                if busy {
                    assert_eq!(names(&propose(&mut writer)), [""; 0], "it waits for the group that is under way");
                }
                writer.step(Input::Appended(Io::Done), 10_000)
            }
            _ => propose(&mut writer),
        };
    }
    looks
}

#[test]
fn a_writer_that_is_alone_in_a_shared_log_looks_seldom_and_only_where_others_wait_behind_its_groups() {
    assert_eq!(looks_in(40, false), 0);
    assert_eq!(looks_in(40, true), 12);
}

#[test]
fn a_full_segment_is_followed_by_a_named_one_before_it_is_sealed_and_before_anything_is_appended() {
    let mut writer = writer();
    for number in 1..200 {
        let (asked, _) = drive(&mut writer, Input::Proposals(vec![(number, create(number))]), &mut |_| Io::Done);
        if let Some(at) = asked.iter().position(|name| *name == "activate") {
            let rest: Vec<_> = asked[at..].iter().filter(|name| !matches!(**name, "publish" | "reply")).collect();
            assert_eq!(rest, [&"activate", &"seal"], "the segment that was full");
            assert_eq!((writer.active.end, writer.active.first), (BLOCK_LEN as u64, Position(number + 1)));
            return;
        }
    }
    panic!("the segment never became full");
}

#[test]
fn a_shutdown_finishes_what_waits_and_marks_the_end() {
    let mut writer = writer();
    writer.step(Input::Proposals(vec![(1, create(1))]), 5);
    writer.step(Input::Proposals(vec![(2, create(2))]), 5);
    assert_eq!(names(&writer.step(Input::Shutdown, 7)), [""; 0], "a write is under way");
    assert_eq!(names(&writer.step(Input::Appended(Io::Done), 7)), ["publish", "reply", "append"]);
    assert_eq!(
        names(&writer.step(Input::Appended(Io::Done), 7)),
        ["publish", "reply", "append"],
        "the last one is the mark"
    );
    assert!(matches!(writer.step(Input::Appended(Io::Done), 7)[..], [Output::Stopped(true)]));
    let late = writer.step(Input::Proposals(vec![(3, create(3))]), 6);
    assert!(matches!(answers(&late)[..], [(3, Outcome::NotDone(Reason::Closed))]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the disk does, every proposal is answered once, at most one write is under way, positions are dense, and
    /// what was answered Done was shown before.
    #[test]
    fn every_proposal_is_answered_once_and_done_only_when_shown(
        batches in proptest::collection::vec(proptest::collection::vec(1u64..40, 1..6), 1..40),
        fates in proptest::collection::vec(0u8..40, 400),
    ) {
        let mut writer = writer();
        let mut fates = fates.into_iter().cycle();
        let (mut ticket, mut shown, mut open) = (0, 0, BTreeMap::new());
        let mut inputs: Vec<Input> = batches
            .into_iter()
            .map(|numbers| {
                let proposals = numbers.into_iter().map(|number| {
                    ticket += 1;
                    open.insert(ticket, ());
                    (ticket, if number % 5 == 0 { rival(number) } else { create(number) })
                });
                Input::Proposals(proposals.collect())
            })
            .collect();
        inputs.push(Input::Shutdown);
        for input in inputs {
            let mut fate = |_: &str| match fates.next() {
                Some(0) => Io::Lost("EIO".into()),
                Some(1..=6) => Io::Full,
                _ => Io::Done,
            };
            let (_, out) = drive(&mut writer, input, &mut fate);
            for output in &out {
                match output {
                    Output::Publish(committed) => {
                        for event in committed.group.events.iter() {
                            shown += 1;
                            prop_assert_eq!(event.position, Position(shown));
                        }
                    }
                    Output::Reply(ticket, outcome) => {
                        prop_assert!(open.remove(ticket).is_some(), "answered twice");
                        if let Outcome::Done { last, .. } = outcome {
                            prop_assert!(last.0 <= shown, "{last:?} answered, {shown} shown");
                        }
                    }
                    _ => {}
                }
            }
        }
        prop_assert!(open.is_empty(), "{} never answered", open.len());
        prop_assert_eq!(writer.durable.position, Position(shown));
    }
}
