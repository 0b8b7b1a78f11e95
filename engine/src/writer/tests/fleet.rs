//! Several writers over one bucket in simulated time: everybody gets his turn.
//!
//! The bucket is 20 ms away, give or take some; requests do what those of a bucket log do (FORMAT.md §5.2), in that order. Each client
//! pushes again once it was answered, after it has brought its pack. Seeded, no real clock.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::log::slot::{self, Slot};

/// One way, in µs.
const WAY: u64 = 10_000;
/// A request takes up to so much longer each way: in a near bucket that answers evenly, and in an ordinary one.
const JITTERS: [u64; 2] = [3_000, 20_000];
/// To write another server's group down here.
const ADOPTION: u64 = 2_000;
const SECOND: u64 = 1_000_000;
const SEEDS: u64 = 16;

/// What is to happen.
enum Due {
    /// A client's proposal reaches its server.
    Push { client: usize },
    /// A server's slot reaches the bucket.
    Put { server: usize, tail: Tail, slot: Vec<u8> },
    /// A server that lost reads what stands there.
    Met { server: usize, tail: Tail },
    /// A server reads slots from there on, so many at once.
    Read { server: usize, tail: Tail, found: Vec<RawGroup>, ahead: usize },
    /// A server learns what came of it.
    Learn { server: usize, input: Input },
}

struct Server {
    core: WriterCore,
    me: u8,
    distance: u64,
    /// What it adopted takes so long, at the end of its next step.
    busy: u64,
    /// It waits for the bucket.
    away: bool,
    queue: Vec<(Ticket, Proposal)>,
    met: Vec<Slot>,
    asked: BTreeMap<Ticket, (usize, u64)>,
}

/// What comes to a server.
#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    /// Its server is so many times as far from the bucket.
    distance: u64,
    /// From this second
    from: u64,
    /// to before this one.
    until: u64,
}

struct Client {
    server: usize,
    /// Its last push begins before this time.
    until: u64,
    /// How long each of its pushes took.
    waits: Vec<u64>,
}

struct Fleet {
    random: StdRng,
    jitter: u64,
    now: u64,
    due: BTreeMap<u64, Due>,
    order: BinaryHeap<Reverse<(u64, u64)>>,
    numbers: u64,
    slots: Vec<Bytes>,
    servers: Vec<Server>,
    clients: Vec<Client>,
}

impl Fleet {
    /// As many servers as there are loads.
    fn new(seed: u64, jitter: u64, loads: &[Load]) -> Fleet {
        let server = |(me, load): (usize, &Load)| {
            let (me, distance) = (me as u8, load.distance);
            let mut core = writer_of(Some(SegmentRule { bytes: 1 << 40, slots: u64::MAX }));
            (core.active.capacity, core.segment_bytes) = (1 << 40, 1 << 40);
            Server {
                core,
                me,
                distance,
                busy: 0,
                away: false,
                queue: Vec::new(),
                met: Vec::new(),
                asked: BTreeMap::new(),
            }
        };
        let client = |server, load: &Load| Client { server, until: load.until * SECOND, waits: Vec::new() };
        let of = |(server, load): (usize, &Load)| (0..load.clients).map(|_| client(server, load)).collect::<Vec<_>>();
        let mut fleet = Fleet {
            random: StdRng::seed_from_u64(seed),
            jitter,
            now: 0,
            due: BTreeMap::new(),
            order: BinaryHeap::new(),
            numbers: 0,
            slots: Vec::new(),
            servers: loads.iter().enumerate().map(server).collect(),
            clients: loads.iter().enumerate().flat_map(of).collect(),
        };
        for client in 0..fleet.clients.len() {
            let server = fleet.clients[client].server;
            let (ways, from) = (fleet.ways(server, 2), loads[server].from * SECOND);
            fleet.after(from + ways, Due::Push { client });
        }
        fleet
    }

    /// So many ways between a server and the bucket.
    fn ways(&mut self, server: usize, count: u64) -> u64 {
        let distance = self.servers[server].distance;
        (0..count).map(|_| WAY * distance + self.random.random_range(0..self.jitter)).sum()
    }

    fn after(&mut self, micros: u64, due: Due) {
        self.numbers += 1;
        self.order.push(Reverse((self.now + micros, self.numbers)));
        self.due.insert(self.numbers, due);
    }

    fn run(&mut self, seconds: u64) {
        while let Some(Reverse((at, number))) = self.order.pop()
            && at < seconds * SECOND
        {
            self.now = at;
            let due = self.due.remove(&number).unwrap();
            self.happen(due);
        }
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Push { client } => {
                self.numbers += 1;
                let (ticket, server) = (self.numbers, self.clients[client].server);
                self.servers[server].queue.push((ticket, create(ticket)));
                self.servers[server].asked.insert(ticket, (client, self.now));
                self.drive(server);
            }
            Due::Put { server, tail, slot } => {
                let won = self.slots.len() as u64 + 1 == tail.ordinal;
                if won {
                    self.slots.push(slot.into());
                    let ways = self.ways(server, 3);
                    self.after(ways, Due::Learn { server, input: Input::Appended(Io::Done) });
                } else {
                    let ways = self.ways(server, 2);
                    self.after(ways, Due::Met { server, tail });
                }
            }
            Due::Met { server, tail } => {
                self.servers[server].met = (0..3).map_while(|at| self.slot(tail.ordinal + at)).collect();
                let ways = self.ways(server, 3);
                self.after(ways, Due::Learn { server, input: Input::Taken });
            }
            Due::Read { server, mut tail, mut found, ahead } => {
                let slots: Vec<Slot> = (0..ahead as u64).map_while(|at| self.slot(tail.ordinal + at)).collect();
                found.extend(slots.iter().map(|slot| self.group(server, slot, &mut tail)));
                if slots.len() == ahead {
                    let (ways, ahead) = (self.ways(server, 2), found.len().clamp(1, 8));
                    return self.after(ways, Due::Read { server, tail, found, ahead });
                }
                let (ways, looked) = (self.ways(server, 3), Looked { groups: found, after: After::Nothing });
                self.after(ways, Due::Learn { server, input: Input::Looked(Ok(looked)) });
            }
            Due::Learn { server, input } => {
                self.servers[server].away = false;
                self.step(server, input);
                self.drive(server);
            }
        }
    }

    fn slot(&self, ordinal: u64) -> Option<Slot> {
        let object = self.slots.get(ordinal as usize - 1)?;
        Some(Slot::decode("slot", LogId::from_random([9; 16]), ordinal, object).unwrap())
    }

    fn group(&self, server: usize, slot: &Slot, tail: &mut Tail) -> RawGroup {
        let mut group = slot.group(tail).unwrap();
        let writer = slot::server(&slot.batch);
        group.server = Some(writer).filter(|writer| writer[0] != self.servers[server].me);
        (tail.next, tail.ordinal, tail.chain) = (group.last.next(), tail.ordinal + 1, group.chain);
        group
    }

    /// Hands a server that is free what came to it.
    fn drive(&mut self, server: usize) {
        let Server { away: false, queue, .. } = &mut self.servers[server] else { return };
        let proposals = std::mem::take(queue);
        if !proposals.is_empty() {
            self.step(server, Input::Proposals(proposals));
        }
    }

    fn step(&mut self, server: usize, first: Input) {
        let mut inputs = VecDeque::from([first]);
        while let Some(input) = inputs.pop_front() {
            let (log, now_ms) = (LogId::from_random([9; 16]), self.now / 1_000);
            for output in self.servers[server].core.step(input, now_ms) {
                match output {
                    Output::Append { bytes, tail, .. } => {
                        let slot = slot::encode(log, &tail, [self.servers[server].me; 16], &bytes);
                        self.leave(server, Due::Put { server, tail, slot });
                    }
                    Output::Look { mut tail, crowded } => {
                        let more = std::mem::take(&mut self.servers[server].queue);
                        inputs.extend((!more.is_empty()).then_some(Input::Proposals(more)));
                        let met = std::mem::take(&mut self.servers[server].met);
                        if met.is_empty() {
                            let ahead = if crowded { 2 } else { 1 };
                            self.leave(server, Due::Read { server, tail, found: Vec::new(), ahead });
                            continue;
                        }
                        let after = if met.len() == 3 { After::More } else { After::Unasked };
                        let groups = met.iter().map(|slot| self.group(server, slot, &mut tail)).collect();
                        inputs.push_back(Input::Looked(Ok(Looked { groups, after })));
                    }
                    Output::Adopt { .. } => {
                        self.servers[server].busy += ADOPTION;
                        inputs.push_back(Input::Appended(Io::Done));
                    }
                    Output::Reply(ticket, outcome) => {
                        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
                        let (client, asked) = self.servers[server].asked.remove(&ticket).unwrap();
                        self.clients[client].waits.push(self.now - asked);
                        // The next pack goes to the bucket first.
                        let ways = self.ways(server, 2);
                        if self.now + ways < self.clients[client].until {
                            self.after(ways, Due::Push { client });
                        }
                    }
                    Output::Prepare { .. } => inputs.push_back(Input::Prepared(Io::Done, [7; 16])),
                    Output::Publish(_) => {}
                    other => panic!("{:?} is not expected", names(&[other])),
                }
            }
        }
    }

    fn leave(&mut self, server: usize, due: Due) {
        self.servers[server].away = true;
        let ways = self.ways(server, 1) + std::mem::take(&mut self.servers[server].busy);
        self.after(ways, due);
    }
}

/// What a server's clients met with.
#[derive(Debug)]
struct Met {
    /// Of pushes, in each second.
    rate: f64,
    /// The longest wait, in ms.
    longest: u64,
}

fn run(seed: u64, jitter: u64, loads: &[Load]) -> Vec<Met> {
    let mut fleet = Fleet::new(seed, jitter, loads);
    fleet.run(SECONDS);
    let of = |(server, load): (usize, &Load)| {
        let waits = fleet.clients.iter().filter(|client| client.server == server).flat_map(|client| &client.waits);
        let open = fleet.servers[server].asked.values().map(|(_, asked)| SECONDS * SECOND - asked);
        let rate = waits.clone().count() as f64 / (load.until - load.from) as f64;
        Met { rate, longest: waits.copied().chain(open).max().unwrap() / 1_000 }
    };
    loads.iter().enumerate().map(of).collect()
}

/// Runs every seed with every jitter; the longest wait, in ms, may be so long with each jitter.
fn try_all(longest: [u64; 2], loads: &[Load], check: &dyn Fn(&[Met], u64)) {
    for (jitter, longest) in JITTERS.into_iter().zip(longest) {
        for seed in 0..SEEDS {
            let met = run(seed, jitter, loads);
            check(&met, jitter);
            assert!(met.iter().all(|met| met.longest < longest), "{longest} ms: seed {seed}, jitter {jitter}: {met:?}");
        }
    }
}

fn always(clients: usize) -> Load {
    Load { clients, distance: 1, from: 0, until: SECONDS }
}

const SECONDS: u64 = 10;

#[test]
fn servers_that_have_as_much_to_write_write_as_much_and_nobody_waits_long() {
    for (servers, longest) in [(2, [800, 1_500]), (3, [800, 2_000]), (5, [1_100, 2_600])] {
        try_all(longest, &vec![always(40); servers], &|met, jitter| {
            let rates = || met.iter().map(|met| met.rate);
            let (least, most) = (rates().fold(f64::MAX, f64::min), rates().fold(0.0, f64::max));
            assert!(least > 0.6 * most, "jitter {jitter}: {met:?}");
            // Every turn takes what came meanwhile: nearly all clients are served in each circle, of 100 ms for each.
            let circles = 1_000.0 / (100.0 * servers as f64);
            assert!(jitter > JITTERS[0] || least > 40.0 * circles * 0.8, "{met:?}");
        });
    }
}

#[test]
fn who_has_little_to_write_waits_no_longer_than_who_has_much() {
    try_all([900, 2_000], &[always(100), always(10), always(1)], &|_, _| {});
    try_all([1_300, 1_500], &[always(1), always(1), always(1)], &|_, _| {});
}

#[test]
fn who_comes_later_gets_his_turn_too() {
    for before in [1, 2, 4] {
        let mut loads = vec![always(40); before];
        loads.push(Load { from: 3, ..always(40) });
        try_all([2_600, 3_200], &loads, &|_, _| {});
    }
}

#[test]
fn nobody_waits_for_those_who_have_nothing_to_write_any_more() {
    let leaves = |until| Load { until, ..always(40) };
    try_all([1_300, 2_200], &[always(40), always(40), leaves(2), leaves(3)], &|_, _| {});
    let alone = run(1, JITTERS[0], &[always(40)]);
    try_all([1_300, 2_200], &[always(40), leaves(2), leaves(3)], &|met, jitter| {
        // Two or three seconds of ten were shared.
        assert!(jitter > JITTERS[0] || met[0].rate > 0.7 * alone[0].rate, "{met:?}, {alone:?}");
    });
}

#[test]
fn who_is_farther_from_the_bucket_gets_his_turn_too() {
    for (distance, longest, share) in [(2, 5_000, 0.3), (3, 6_500, 0.15)] {
        let far = Load { distance, ..always(40) };
        try_all([longest, longest], &[always(40), always(40), far], &|met, jitter| {
            assert!(met[2].rate > share * met[0].rate, "jitter {jitter}: {met:?}");
        });
    }
}
