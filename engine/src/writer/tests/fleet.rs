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
/// A request takes up to so much longer, each way.
const JITTER: u64 = 3_000;

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
    /// It waits for the bucket.
    away: bool,
    queue: Vec<(Ticket, Proposal)>,
    met: Vec<Slot>,
    asked: BTreeMap<Ticket, (usize, u64)>,
}

struct Client {
    server: usize,
    /// How long each of its pushes took.
    waits: Vec<u64>,
}

struct Fleet {
    random: StdRng,
    now: u64,
    due: BTreeMap<u64, Due>,
    order: BinaryHeap<Reverse<(u64, u64)>>,
    numbers: u64,
    slots: Vec<Bytes>,
    servers: Vec<Server>,
    clients: Vec<Client>,
}

impl Fleet {
    /// As many servers as there are numbers of clients.
    fn new(seed: u64, clients: &[usize]) -> Fleet {
        let server = |me| {
            let mut core = writer_of(Some(SegmentRule { bytes: 1 << 40, slots: u64::MAX }));
            (core.active.capacity, core.segment_bytes) = (1 << 40, 1 << 40);
            Server { core, me, away: false, queue: Vec::new(), met: Vec::new(), asked: BTreeMap::new() }
        };
        let of = |(server, count): (usize, &usize)| (0..*count).map(move |_| Client { server, waits: Vec::new() });
        let mut fleet = Fleet {
            random: StdRng::seed_from_u64(seed),
            now: 0,
            due: BTreeMap::new(),
            order: BinaryHeap::new(),
            numbers: 0,
            slots: Vec::new(),
            servers: (0..clients.len()).map(|me| server(me as u8)).collect(),
            clients: clients.iter().enumerate().flat_map(of).collect(),
        };
        for client in 0..fleet.clients.len() {
            let ways = fleet.ways(2);
            fleet.after(ways, Due::Push { client });
        }
        fleet
    }

    fn ways(&mut self, count: u64) -> u64 {
        (0..count).map(|_| WAY + self.random.random_range(0..JITTER)).sum()
    }

    fn after(&mut self, micros: u64, due: Due) {
        self.numbers += 1;
        self.order.push(Reverse((self.now + micros, self.numbers)));
        self.due.insert(self.numbers, due);
    }

    fn run(&mut self, seconds: u64) {
        while let Some(Reverse((at, number))) = self.order.pop()
            && at < seconds * 1_000_000
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
                    let ways = self.ways(3);
                    self.after(ways, Due::Learn { server, input: Input::Appended(Io::Done) });
                } else {
                    let ways = self.ways(2);
                    self.after(ways, Due::Met { server, tail });
                }
            }
            Due::Met { server, tail } => {
                self.servers[server].met = (0..3).map_while(|at| self.slot(tail.ordinal + at)).collect();
                let ways = self.ways(3);
                self.after(ways, Due::Learn { server, input: Input::Taken });
            }
            Due::Read { server, mut tail, mut found, ahead } => {
                let slots: Vec<Slot> = (0..ahead as u64).map_while(|at| self.slot(tail.ordinal + at)).collect();
                found.extend(slots.iter().map(|slot| self.group(server, slot, &mut tail)));
                if slots.len() == ahead {
                    let (ways, ahead) = (self.ways(2), found.len().clamp(1, 8));
                    return self.after(ways, Due::Read { server, tail, found, ahead });
                }
                let (ways, looked) = (self.ways(3), Looked { groups: found, after: After::Nothing });
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
        let queue = &mut self.servers[server].queue;
        if !self.servers[server].away && !queue.is_empty() {
            let proposals = std::mem::take(queue);
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
                    Output::Adopt { .. } => inputs.push_back(Input::Appended(Io::Done)),
                    Output::Reply(ticket, outcome) => {
                        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
                        let (client, asked) = self.servers[server].asked.remove(&ticket).unwrap();
                        self.clients[client].waits.push(self.now - asked);
                        // The next pack goes to the bucket first.
                        let ways = self.ways(2);
                        self.after(ways, Due::Push { client });
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
        let ways = self.ways(1);
        self.after(ways, due);
    }
}

/// Runs a fleet; pushes per second, and the longest wait in ms, of the clients of each server.
fn run(seed: u64, clients: &[usize], seconds: u64) -> Vec<(f64, u64)> {
    let mut fleet = Fleet::new(seed, clients);
    fleet.run(seconds);
    let now = fleet.now;
    let of = |server: usize| {
        let waits = fleet.clients.iter().filter(|client| client.server == server).map(|client| &client.waits);
        let open = fleet.servers[server].asked.values().map(|(_, asked)| now - asked);
        let longest = waits.clone().flatten().copied().chain(open).max().unwrap();
        (waits.map(Vec::len).sum::<usize>() as f64 / seconds as f64, longest / 1_000)
    };
    (0..clients.len()).map(of).collect()
}

#[test]
fn servers_with_as_much_to_write_write_as_much_and_nobody_waits_long() {
    for seed in 0..8 {
        for servers in [2, 3, 5] {
            let found = run(seed, &vec![40; servers], 10);
            println!("seed {seed}, {servers}: {found:?}");
        }
    }
}

#[test]
fn who_has_little_to_write_waits_for_those_who_have_much_no_longer_than_they_for_each_other() {
    for seed in 0..8 {
        let found = run(seed, &[100, 10, 1], 10);
        println!("seed {seed}: {found:?}");
    }
}
