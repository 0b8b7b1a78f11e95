//! The stories of the gate, and stories from a seed.
//!
//! Invariants: every part of the engine that writes has a story of its own, closed and unclosed; a story is short, since each
//! of its changes is a crash point with eight survivals and a kill.

use reprise_engine::{
    disk::sim::Survival,
    event::{EventBody, RefUpdate, RefsUpdated},
};

use super::{
    run::NOW_MS,
    script::{
        Script, Step, create, deleted, moved, noise, object, padded, proposal, push, record, released, repo, retracted,
        tagged, token,
    },
};
use crate::simulation::Dice;

/// All stories of the gate.
pub fn scripts() -> Vec<Script> {
    [appends(), rolls(), openings(), packs(), deletions(), rebuilds()].concat()
}

/// A story that nobody thought of.
pub fn random(seed: u64) -> Script {
    let dice = Dice::new(seed);
    let steps = (0..dice.between(8, 30)).map(|number| random_step(&dice, number)).collect();
    let script = if dice.chance(70) { Script::rolling("random", steps) } else { Script::story("random", steps) };
    Script { shutdown: dice.chance(60), ..script }
}

fn random_step(dice: &Dice, number: u64) -> Step {
    let some = dice.below(number + 1);
    match dice.below(24) {
        0..=7 => append_padded(number, dice.below(1_200) as usize),
        8..=9 => Step::Together((0..dice.between(2, 6)).map(|n| padded(number * 10 + 100 + n, 300)).collect()),
        10..=12 => pack_of(number, some, dice.between(1, 4), dice.between(1, 600) as usize),
        13 => Step::Append(moved(1_000 + number, repo(some), None, Some(number))),
        14 => Step::Append(deleted(2_000 + number, some)),
        15 => Step::Append(released(3_000 + number, repo(some), "v1")),
        16 => Step::Append(retracted(3_100 + number, repo(some), "v1")),
        17 => Step::Append(proposal(4_000 + number, vec![], vec![token(number)])),
        18 => Step::Rebuild,
        19 => Step::Orphan { number, removed: dice.chance(50) },
        20 => Step::Clock(dice.below(2 * NOW_MS)),
        21 => Step::PowerLoss(*dice.pick(&Survival::EVERY), dice.below(1_000)),
        22 => Step::Append(create(some)),
        _ => Step::Restart,
    }
}

fn appends() -> Vec<Script> {
    let group = || vec![append(0), Step::Together((1..9).map(create).collect())];
    vec![
        Script::story("append small", (0..4).map(append).collect()),
        Script::story("append a group", group()),
        Script::story("append a group, not closed", group()).unclosed(),
        Script::story("groups after groups", (0..3).map(|group| together(group * 6, 6)).collect()),
        Script::story("groups beside a thread", (0..3).map(|group| together(group * 6, 6)).collect()).with_threads(),
        Script::story("a group with refusals and repeats", vec![append(0), mixed_group(), mixed_group()]),
        Script::story(
            "large proposals",
            vec![append(0), append_padded(1, 30_000), append_padded(2, 200_000), append(3)],
        ),
        Script::story("conditional appends", conditional()),
        Script::story("repeated push ids", repeated()),
        Script::story("tags, releases and tokens", tags_and_releases()),
        Script::rolling("the clock jumps", clock_jumps()),
    ]
}

fn rolls() -> Vec<Script> {
    let appended = |count, padding| (0..count).map(|number| append_padded(number, padding)).collect::<Vec<_>>();
    vec![
        Script::rolling("roll to a new segment", appended(14, 700)),
        Script::rolling("roll beside a thread", appended(20, 700)).with_threads(),
        Script::rolling("no shutdown after a roll", appended(9, 900)).unclosed(),
        Script::rolling("several segments", appended(40, 800)),
        Script::rolling("several segments, not closed", appended(32, 1_100)).unclosed(),
        Script::rolling("a segment for every proposal", appended(8, 5_000)),
        Script::rolling("roll within a group", vec![append(0), padded_group(1, 11, 900), append(40)]),
        Script::rolling("groups that fill segments", (0..6).map(|group| padded_group(group * 10, 7, 700)).collect()),
        Script::rolling("a proposal larger than a segment", vec![append(0), append_padded(1, 40_000), append(2)]),
        Script::rolling("segments filled to the last byte", to_the_last_byte()),
        Script::rolling("seal twice and restart", sealing_and_restart()),
        Script::rolling("power lost at every roll", power_lost_at_rolls()),
    ]
}

fn openings() -> Vec<Script> {
    let restarts = |count: u64| (0..count).flat_map(|number| [append(number), Step::Restart]).collect::<Vec<_>>();
    vec![
        Script::story("nothing at all", vec![]),
        Script::story("nothing at all, not closed", vec![]).unclosed(),
        Script::story("restart between appends", vec![append(0), Step::Restart, append(1), Step::Restart, append(2)]),
        Script::story("restart an empty log", vec![Step::Restart, append(0), Step::Restart, Step::Restart]),
        Script::story("many restarts", restarts(9)),
        Script::rolling("restarts with a roll between", rolls_and_restarts()),
        Script::story("shut down, lose power, shut down", shut_down_and_lose_power()),
        Script::story("open after a torn tail", torn(Survival::TornSector)),
        Script::story("open after zeroed bytes", torn(Survival::ZeroTail)),
        Script::story("open after reordered sectors", torn(Survival::Reordered)),
        Script::story("open after a prefix", torn(Survival::Prefix)),
        Script::rolling("open after a lost name", lost_name()),
        Script::rolling("every survival, one after another", every_survival()),
        Script::story("opened again and again", opened_again()),
    ]
}

fn packs() -> Vec<Script> {
    vec![
        Script::story(
            "store a pack, then append its event",
            vec![append(0), pack(1, 3, 400), pack(2, 1, 5_000), append(1)],
        ),
        Script::rolling("packs across a roll", packs_across_a_roll()),
        Script::story("the same pack for two pushes", same_pack_twice()),
        Script::story("packs that no event names", orphans()),
        Script::story("packs, not closed", vec![append(0), pack(1, 2, 300), pack(2, 2, 300)]).unclosed(),
        Script::story("packs around a power loss", packs_around_a_power_loss()),
    ]
}

fn deletions() -> Vec<Script> {
    vec![
        Script::story("delete and recreate a repository", deleted_and_recreated()),
        Script::rolling("delete repositories across a roll", deleted_across_rolls()),
        Script::story("delete what was pushed to, push again", deleted_after_pushes()),
        Script::story("delete, not closed", vec![append(0), append(1), delete(20, 0), delete(21, 1)]).unclosed(),
        Script::story("delete, restart, delete again", delete_again()),
    ]
}

fn rebuilds() -> Vec<Script> {
    let some: Vec<Step> = (0..6).map(append).chain([pack(1, 3, 200), pack(2, 2, 200)]).collect();
    let and = |steps: Vec<Step>| [some.clone(), steps].concat();
    vec![
        Script::story("rebuild", and(vec![Step::Rebuild])),
        Script::rolling("rebuild across segments", and(rebuilt_across_segments())),
        Script::story("rebuild, not closed", and(vec![Step::Rebuild, append(30), Step::Rebuild])).unclosed(),
        Script::story("rebuild, restart, rebuild", and(vec![Step::Rebuild, Step::Restart, append(30), Step::Rebuild])),
        Script::story(
            "rebuild after a power loss",
            and(vec![Step::Rebuild, Step::PowerLoss(Survival::Reordered, 3), Step::Rebuild, append(30)]),
        ),
        Script::story("rebuild an empty log", vec![Step::Rebuild, append(0), Step::Rebuild]),
    ]
}

// ---- steps -----------------------------------------------------------------------------------------------------------

fn append(number: u64) -> Step {
    Step::Append(create(number))
}

fn append_padded(number: u64, padding: usize) -> Step {
    Step::Append(padded(number, padding))
}

fn together(first: u64, count: u64) -> Step {
    padded_group(first, count, 0)
}

fn padded_group(first: u64, count: u64, padding: usize) -> Step {
    Step::Together((first..first + count).map(|number| padded(number, padding)).collect())
}

fn delete(number: u64, which: u64) -> Step {
    Step::Append(deleted(number, which))
}

fn move_ref(number: u64, from: Option<u64>, to: u64) -> Step {
    Step::Append(moved(number, repo(0), from, Some(to)))
}

/// The second one is refused, the third is the first again, the fourth relies on the first, the fifth contradicts it.
fn mixed_group() -> Step {
    let mut taken = create(0);
    taken.push = push(51);
    let first = moved(52, repo(0), None, Some(1));
    let (relies, contradicts) = (moved(53, repo(0), Some(1), Some(2)), moved(54, repo(0), Some(1), Some(3)));
    Step::Together(vec![create(50), taken, create(50), first, relies, contradicts, create(55)])
}

/// Around the size at which one more frame no longer fits.
fn to_the_last_byte() -> Vec<Step> {
    (0..14).map(|number| append_padded(number, 2_300 + number as usize * 29)).collect()
}

fn sealing_and_restart() -> Vec<Step> {
    let mut steps: Vec<Step> = (0..10).map(|number| append_padded(number, 800)).collect();
    steps.push(Step::Restart);
    steps.extend((10..18).map(|number| append_padded(number, 800)));
    steps
}

fn power_lost_at_rolls() -> Vec<Step> {
    let mut steps = Vec::new();
    for (index, survival) in (0..).zip([Survival::None, Survival::LostEntry, Survival::ZeroTail, Survival::TornSector])
    {
        steps.extend((0..5).map(|number| append_padded(index * 10 + number, 1_400)));
        steps.push(Step::PowerLoss(survival, index));
    }
    steps
}

fn rolls_and_restarts() -> Vec<Step> {
    (0..5).flat_map(|turn| [padded_group(turn * 10, 5, 1_500), Step::Restart, append(turn * 10 + 9)]).collect()
}

fn shut_down_and_lose_power() -> Vec<Step> {
    let mut steps = vec![append(0), Step::Restart, Step::PowerLoss(Survival::None, 1), append(1), Step::Restart];
    steps.extend([Step::PowerLoss(Survival::Reordered, 2), Step::Restart, append(2)]);
    steps
}

fn every_survival() -> Vec<Step> {
    let lost = (0..).zip(Survival::EVERY);
    lost.flat_map(|(number, survival)| {
        [append_padded(number * 2, 900), append(number * 2 + 1), Step::PowerLoss(survival, number)]
    })
    .collect()
}

fn pack(number: u64, blobs: u64, bytes: usize) -> Step {
    pack_of(number, 0, blobs, bytes)
}

fn pack_of(number: u64, which: u64, blobs: u64, bytes: usize) -> Step {
    let blob = |blob: u64| noise(number * 100 + blob, bytes).into_bytes();
    let moved = RefUpdate { name: format!("b{number}"), old: None, new: Some(object(number)), forced: false };
    Step::Pack {
        blobs: (0..blobs).map(blob).collect(),
        repo: repo(which),
        push: push(10_000 + number),
        and: Some(EventBody::RefsUpdated(RefsUpdated { repo: repo(which), updates: vec![moved] })),
    }
}

fn packs_across_a_roll() -> Vec<Step> {
    let mut steps = vec![append(0)];
    for number in 1..5 {
        steps.push(pack(number, 8, 60));
        steps.push(append_padded(number, 900));
    }
    steps
}

/// The second time the bytes are there: the push is answered as the first one was.
fn same_pack_twice() -> Vec<Step> {
    vec![append(0), pack(1, 2, 300), pack(1, 2, 300), Step::Restart, pack(1, 2, 300), append(1)]
}

fn orphans() -> Vec<Step> {
    let orphan = |number, removed| Step::Orphan { number, removed };
    let mut steps = vec![append(0), orphan(1, false), orphan(2, true), pack(3, 1, 100), orphan(1, true), Step::Sweep];
    steps.extend([Step::Restart, orphan(1, false), orphan(2, false), append(1)]);
    steps
}

fn packs_around_a_power_loss() -> Vec<Step> {
    let mut steps = vec![append(0), pack(1, 2, 300), Step::PowerLoss(Survival::LostEntry, 2), Step::Sweep];
    steps.extend([pack(2, 2, 300), Step::PowerLoss(Survival::None, 3), pack(3, 2, 300), append(1)]);
    steps
}

fn torn(survival: Survival) -> Vec<Step> {
    // Seeds for which the loss hits something differ by layout; several losses meet several of them.
    let mut steps = vec![append(0), append(1), Step::PowerLoss(survival, 3), append(2)];
    steps.extend([Step::PowerLoss(survival, 4), Step::PowerLoss(survival, 5), append(3)]);
    steps
}

fn lost_name() -> Vec<Step> {
    let mut steps: Vec<Step> = (0..7).map(|number| append_padded(number, 900)).collect();
    steps.push(Step::PowerLoss(Survival::LostEntry, 2));
    steps.extend((7..12).map(|number| append_padded(number, 900)));
    steps
}

/// What one process could not make durable is met by the next ones, which rely on it.
fn opened_again() -> Vec<Step> {
    let mut steps = vec![Step::Restart, append(0), Step::Restart, pack(1, 1, 300), Step::Restart, pack(1, 1, 300)];
    steps.extend([append(1), pack(2, 1, 300), Step::Restart, append(2)]);
    steps
}

/// Years forwards, back to the beginning, by a little; across groups, segments, openings and a power loss.
fn clock_jumps() -> Vec<Step> {
    let year = 365 * 86_400_000;
    let mut steps = vec![append(0), Step::Clock(NOW_MS + year), append_padded(1, 900), Step::Clock(0), append(2)];
    steps.extend([Step::Restart, append_padded(3, 900), Step::Clock(NOW_MS - year), together(4, 2)]);
    steps.extend((6..14).flat_map(|number| [Step::Clock(NOW_MS + number % 3), append_padded(number, 700)]));
    steps.extend([Step::PowerLoss(Survival::Reordered, 3), Step::Clock(1), append(14), Step::Restart, append(15)]);
    steps
}

fn conditional() -> Vec<Step> {
    let mut steps = vec![append(0), move_ref(20, None, 1), move_ref(21, Some(1), 2)];
    // Refused: the head moved on; the name is taken.
    steps.extend([move_ref(22, Some(1), 3), move_ref(23, Some(2), 4)]);
    let mut again = create(0);
    again.push = push(24);
    steps.extend([Step::Append(again), Step::Restart, move_ref(25, Some(4), 5), move_ref(26, Some(4), 6)]);
    steps
}

fn repeated() -> Vec<Step> {
    let mut steps = vec![append(0), append(0), append(1), Step::Restart, append(0), append(1)];
    let twice = Step::Together(vec![create(2), create(2)]);
    steps.extend([twice, Step::PowerLoss(Survival::None, 1), append(2), append(3)]);
    steps
}

fn tags_and_releases() -> Vec<Step> {
    let tags = proposal(40, vec![], vec![EventBody::TagsSet(tagged(repo(0), 1))]);
    let issued = proposal(42, vec![], vec![token(1)]);
    let proposals = [create(0), tags, released(41, repo(0), "v1"), issued, retracted(43, repo(0), "v1"), create(1)];
    let mut steps: Vec<Step> = proposals.into_iter().map(Step::Append).collect();
    // Refused: it is gone; then published again.
    steps.push(Step::Append(retracted(44, repo(0), "v1")));
    steps.push(Step::Append(released(45, repo(0), "v1")));
    steps
}

fn deleted_and_recreated() -> Vec<Step> {
    let mut new = record(0, 0);
    new.repo = repo(31);
    let recreate = Step::Append(proposal(31, vec![], vec![EventBody::RepoCreated(new)]));
    vec![append(0), move_ref(29, None, 1), delete(30, 0), move_ref(32, Some(1), 2), recreate]
}

fn deleted_across_rolls() -> Vec<Step> {
    let mut steps: Vec<Step> = (0..6).map(|number| append_padded(number, 1_200)).collect();
    steps.extend((0..6).flat_map(|number| [delete(100 + number, number), append_padded(10 + number, 1_200)]));
    steps
}

fn deleted_after_pushes() -> Vec<Step> {
    let mut steps = vec![append(0), append(1), pack(1, 2, 200), pack_of(2, 1, 2, 200), delete(30, 0)];
    // Refused: the repository is gone. Its packs stay, other repositories may need them.
    steps.extend([pack(3, 1, 200), Step::Restart, pack_of(4, 1, 1, 200), Step::Rebuild]);
    steps
}

fn delete_again() -> Vec<Step> {
    vec![append(0), delete(20, 0), Step::Restart, delete(21, 0), delete(20, 0), append(1), delete(22, 1)]
}

fn rebuilt_across_segments() -> Vec<Step> {
    let mut steps: Vec<Step> = (10..18).map(|number| append_padded(number, 1_500)).collect();
    steps.extend([Step::Rebuild, delete(40, 1), Step::Rebuild]);
    steps
}
