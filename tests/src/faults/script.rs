//! What the engine is made to do before the machine crashes: short stories, each about one thing that can go wrong.
//!
//! Invariants: a script is data; ids in it are made from small numbers, so that a report can be read; the same script
//! gives the same proposals every time.

use reprise_engine::{
    disk::sim::Survival,
    engine::{Condition, Proposal},
    event::{
        EventBody, RefUpdate, RefsUpdated, ReleasePublished, RepoDeleted, RepoRecord, Scope, TagRecord, TagsSet,
        TokenRecord, Visibility,
    },
    id::{ObjectId, PushId, RepoId, TokenHash, TokenId},
};

use super::run::NOW_MS;

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Step {
    /// Propose, wait for the outcome.
    Append(Proposal),
    /// Propose all, then wait for all: they may share groups.
    Together(Vec<Proposal>),
    /// Put a pack with these blobs into the store, then propose its event together with `refs`.
    Pack {
        /// Contents of the blobs.
        blobs: Vec<Vec<u8>>,
        /// The repository.
        repo: RepoId,
        /// Its push id.
        push: PushId,
        /// An event for the same proposal.
        and: Option<EventBody>,
    },
    /// Set the wall clock, forwards or backwards.
    Clock(u64),
    /// Shut down cleanly, open again.
    Restart,
    /// Lose power, open again. What was proposed before is from then on what recovery found.
    PowerLoss(Survival, u64),
}

/// A story.
#[derive(Clone, Debug)]
pub struct Script {
    /// What it is about, for reports.
    pub name: &'static str,
    /// Bytes at which a segment is sealed.
    pub segment_bytes: u64,
    /// What happens.
    pub steps: Vec<Step>,
    /// Ends with a clean shutdown.
    pub shutdown: bool,
}

/// All stories of the gate.
pub fn scripts() -> Vec<Script> {
    let mut all = vec![
        story("append small", (0..4).map(created).collect()),
        story("append a group", vec![append(0), Step::Together((1..9).map(create).collect())]),
        story("groups after groups", (0..3).map(|group| together(group * 6, 6)).collect()),
        rolling("roll to a new segment", (0..14).map(|number| append_padded(number, 700)).collect()),
        rolling(
            "roll within a group",
            vec![append(0), Step::Together((1..12).map(|n| padded(n, 900)).collect()), append(40)],
        ),
        rolling("seal twice and restart", sealing_and_restart()),
        story("store a pack, then append its event", packs()),
        rolling("packs across a roll", packs_across_a_roll()),
        story("restart between appends", vec![append(0), Step::Restart, append(1), Step::Restart, append(2)]),
        story("restart an empty log", vec![Step::Restart, append(0), Step::Restart, Step::Restart]),
        story("open after a torn tail", torn(Survival::TornSector)),
        story("open after zeroed bytes", torn(Survival::ZeroTail)),
        story("open after reordered sectors", torn(Survival::Reordered)),
        rolling("open after a lost name", lost_name()),
        story("conditional appends", conditional()),
        story("opened again and again", opened_again()),
        rolling("the clock jumps", clock_jumps()),
        story("large proposals", vec![append(0), append_padded(1, 30_000), append_padded(2, 200_000), append(3)]),
        rolling("a proposal larger than a segment", vec![append(0), append_padded(1, 40_000), append(2)]),
        story("repeated push ids", repeated()),
        story("delete and recreate a repository", deleted_and_recreated()),
        story(
            "tags, releases and tokens",
            vec![append(0), tags(), release(), Step::Append(proposal(42, vec![], vec![token(1)])), append(1)],
        ),
    ];
    let mut unclosed = rolling("no shutdown after a roll", (0..9).map(|number| append_padded(number, 900)).collect());
    unclosed.shutdown = false;
    all.push(unclosed);
    all
}

fn story(name: &'static str, steps: Vec<Step>) -> Script {
    Script { name, segment_bytes: 64 << 10, steps, shutdown: true }
}

fn rolling(name: &'static str, steps: Vec<Step>) -> Script {
    Script { name, segment_bytes: 8 << 10, steps, shutdown: true }
}

/// A repository that belongs to a number.
pub fn repo(number: u64) -> RepoId {
    RepoId(bytes16(1, number))
}

/// A push that belongs to a number.
pub fn push(number: u64) -> PushId {
    PushId(bytes16(2, number))
}

/// An object that belongs to a number.
pub fn object(number: u64) -> ObjectId {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    ObjectId(bytes)
}

/// A proposal of some events, as a push with this number.
pub fn proposal(number: u64, conditions: Vec<Condition>, events: Vec<EventBody>) -> Proposal {
    Proposal { push: push(number), fingerprint: number, actor: "tester".to_owned(), conditions, events }
}

/// Creates the repository of a number.
pub fn create(number: u64) -> Proposal {
    padded(number, 0)
}

/// The repository of a number; `padding` makes its event larger.
pub fn record(number: u64, padding: usize) -> RepoRecord {
    RepoRecord {
        repo: repo(number),
        owner: "owner".to_owned(),
        slug: format!("repo-{number}"),
        domain: "code".to_owned() + &noise(number, padding),
        default_branch: "main".to_owned(),
        visibility: Visibility::Private,
        created_ms: 1_000 + number,
    }
}

/// Creates the repository of a number, with an event of about `padding` bytes.
pub fn padded(number: u64, padding: usize) -> Proposal {
    let record = record(number, padding);
    let free = Condition::NameFree { owner: record.owner.clone(), slug: record.slug.clone() };
    proposal(number, vec![free], vec![EventBody::RepoCreated(record)])
}

/// Text without zeros or repetition, so that a lost or stale sector shows.
pub fn noise(number: u64, bytes: usize) -> String {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + ((state >> 33) % 26) as u8)
    };
    (0..bytes).map(|_| next()).collect()
}

fn created(number: u64) -> Step {
    append(number)
}

fn append(number: u64) -> Step {
    Step::Append(create(number))
}

fn append_padded(number: u64, padding: usize) -> Step {
    Step::Append(padded(number, padding))
}

fn together(first: u64, count: u64) -> Step {
    Step::Together((first..first + count).map(create).collect())
}

fn sealing_and_restart() -> Vec<Step> {
    let mut steps: Vec<Step> = (0..10).map(|number| append_padded(number, 800)).collect();
    steps.push(Step::Restart);
    steps.extend((10..18).map(|number| append_padded(number, 800)));
    steps
}

fn pack(number: u64, blobs: u64, bytes: usize) -> Step {
    let blob = |blob: u64| noise(number * 100 + blob, bytes).into_bytes();
    let moved = RefUpdate { name: format!("b{number}"), old: None, new: Some(object(number)), forced: false };
    Step::Pack {
        blobs: (0..blobs).map(blob).collect(),
        repo: repo(0),
        push: push(1000 + number),
        and: Some(EventBody::RefsUpdated(RefsUpdated { repo: repo(0), updates: vec![moved] })),
    }
}

fn packs() -> Vec<Step> {
    vec![append(0), pack(1, 3, 400), pack(2, 1, 5_000), append(1)]
}

fn packs_across_a_roll() -> Vec<Step> {
    let mut steps = vec![append(0)];
    for number in 1..5 {
        steps.push(pack(number, 8, 60));
        steps.push(append_padded(number, 900));
    }
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
    steps.extend([
        Step::Restart,
        append_padded(3, 900),
        Step::Clock(NOW_MS - year),
        Step::Together(vec![create(4), create(5)]),
    ]);
    steps.extend((6..14).flat_map(|number| [Step::Clock(NOW_MS + number % 3), append_padded(number, 700)]));
    steps.extend([Step::PowerLoss(Survival::Reordered, 3), Step::Clock(1), append(14), Step::Restart, append(15)]);
    steps
}

fn move_ref(number: u64, from: Option<u64>, to: u64) -> Step {
    let (old, new) = (from.map(object), Some(object(to)));
    let seen = Condition::RefIs { repo: repo(0), name: "main".to_owned(), head: old };
    let updates = vec![RefUpdate { name: "main".to_owned(), old, new, forced: false }];
    let moved = EventBody::RefsUpdated(RefsUpdated { repo: repo(0), updates });
    Step::Append(proposal(number, vec![Condition::RepoLive(repo(0)), seen], vec![moved]))
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
    steps.extend([
        Step::Together(vec![create(2), create(2)]),
        Step::PowerLoss(Survival::None, 1),
        append(2),
        append(3),
    ]);
    steps
}

fn deleted_and_recreated() -> Vec<Step> {
    let old = record(0, 0);
    let gone = RepoDeleted { repo: old.repo, owner: old.owner.clone(), slug: old.slug.clone() };
    let live = Condition::RepoLive(old.repo);
    let delete = proposal(30, vec![live], vec![EventBody::RepoDeleted(gone)]);
    let mut new = record(0, 0);
    new.repo = repo(31);
    let free = Condition::NameFree { owner: old.owner, slug: old.slug };
    let recreate = proposal(31, vec![free], vec![EventBody::RepoCreated(new)]);
    vec![append(0), move_ref(29, None, 1), Step::Append(delete), move_ref(32, Some(1), 2), Step::Append(recreate)]
}

/// Five tags, the first of them with this number.
pub fn tagged(repo: RepoId, first: u64) -> TagsSet {
    let tag = |number: u64| TagRecord {
        tag_id: format!("id-{number}"),
        tag: format!("v{number:06}"),
        commit: object(number),
        created_at: "2026-01-01T00:00:00+00:00".to_owned(),
    };
    TagsSet { repo, tags: (first..first + 5).map(tag).collect() }
}

fn tags() -> Step {
    let set = EventBody::TagsSet(tagged(repo(0), 1));
    Step::Append(proposal(40, vec![Condition::RepoLive(repo(0))], vec![set]))
}

fn release() -> Step {
    let released = ReleasePublished {
        repo: repo(0),
        tag: "v1".to_owned(),
        channel: "stable".to_owned(),
        is_draft: false,
        record: b"{\"tag\":\"v1\"}".to_vec(),
    };
    let absent = Condition::ReleaseExists { repo: repo(0), tag: "v1".to_owned(), exists: false };
    Step::Append(proposal(41, vec![absent], vec![EventBody::ReleasePublished(released)]))
}

/// The token of a number is issued.
pub fn token(number: u64) -> EventBody {
    let mut hash = [9; 32];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    EventBody::TokenIssued(TokenRecord {
        token: TokenId(bytes16(3, number)),
        hash: TokenHash(hash),
        owner: "owner".to_owned(),
        repo: None,
        scope: Scope::Write,
        issued_ms: 5,
        expires_ms: None,
    })
}

fn bytes16(first: u8, number: u64) -> [u8; 16] {
    let mut bytes = [first; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes
}
