//! How connections leave a simulated driver: closed, broken, or handed to another lane.

use crate::driver::Phase;
use crate::link::{End, LinkId, MS, US};
use crate::world::{Happening, World};
use pgring_logic::action::CloseMode;
use pgring_logic::id::{ConnId, Core};
use pgring_logic::mail::{Event, Mail};
use pgring_logic::parcel::Parcel;

impl World {
    /// A lane closes a connection.
    pub(crate) fn shut(&mut self, core: usize, conn: ConnId, mode: CloseMode) {
        let Some(found) = self.lanes[core].conns.get_mut(&conn) else {
            return self.violate(format!("lane {core} closes {conn:?}, which does not exist"));
        };
        match found.phase {
            Phase::Closing if mode == CloseMode::Flush => return,
            Phase::Gone => return,
            Phase::Leaving(..) => {
                return self.violate(format!("lane {core} closes {conn:?}, which it gave away"));
            }
            Phase::Connecting | Phase::Open | Phase::Closing => {}
        }
        let connecting = matches!(found.phase, Phase::Connecting);
        found.phase = Phase::Closing;
        let link = found.link;
        let left = self.links.get(&link).map_or(0, |link| link.to_far.unsent.len());
        self.unpause(core, conn);
        if mode == CloseMode::Now || connecting || left == 0 {
            let abrupt = mode == CloseMode::Now && self.dice.chance(50);
            self.gone(core, conn, abrupt || connecting);
        } else {
            let when = self.now + self.plan.write_timeout;
            self.at(when, Happening::Hurry(core, conn));
        }
    }

    /// Flushing has taken too long.
    pub(crate) fn hurry(&mut self, core: usize, conn: ConnId) {
        let closing = self.lanes[core].conns.get(&conn);
        if closing.is_some_and(|conn| matches!(conn.phase, Phase::Closing)) {
            self.gone(core, conn, true);
        }
    }

    /// The socket is closed; the lane hears of it when the kernel has let go.
    pub(crate) fn gone(&mut self, core: usize, conn: ConnId, abrupt: bool) {
        let Some(found) = self.lanes[core].conns.get_mut(&conn) else { return };
        let phase = std::mem::replace(&mut found.phase, Phase::Gone);
        let link = found.link;
        if let Phase::Leaving(_, mail) = phase
            && let Mail::Parcel(parcel) = *mail
        {
            // As the real driver: a server that does not arrive frees its permit.
            let from = Core(u16::try_from(core).expect("few lanes"));
            let mail = Mail::Returned { pool: parcel.pool, core: from, count: 1 };
            self.post(core, usize::MAX, Happening::Control(Box::new(mail)));
        }
        if let Some(link) = self.links.get_mut(&link) {
            link.near = None;
        }
        self.close(link, End::Near, abrupt);
        let late = if self.dice.chance(5) { 500 * MS } else { MS };
        self.soon(late, Happening::Lane(core, Event::Closed { conn }));
    }

    /// A connection failed under the lane's hands.
    pub(crate) fn failed(&mut self, core: usize, conn: ConnId, why: &str) {
        let Some(found) = self.lanes[core].conns.get_mut(&conn) else { return };
        match found.phase {
            Phase::Leaving(..) | Phase::Closing => self.gone(core, conn, true),
            Phase::Gone => {}
            Phase::Connecting | Phase::Open => {
                self.tell_lane(core, Event::Failed { conn, reason: why.to_owned() });
            }
        }
    }

    /// A surrendered connection leaves, unless bytes came meanwhile.
    pub(crate) fn settle(&mut self, core: usize, conn: ConnId) {
        let Some(found) = self.lanes[core].conns.get_mut(&conn) else { return };
        let Phase::Leaving(..) = found.phase else { return };
        let number = found.link;
        let Some(link) = self.links.get_mut(&number) else { return };
        if !link.to_far.unsent.is_empty() && !link.broken {
            self.soon(200 * US, Happening::Settle(core, conn));
            return;
        }
        let Phase::Leaving(_, mail) = &found.phase else { return };
        let client = matches!(**mail, Mail::Client { .. });
        let spoke =
            !found.held.is_empty() || link.to_near.ended || !link.to_near.readable.is_empty();
        if link.broken || spoke && !client {
            self.say(|| format!("lane {core}: {conn:?} spoke while leaving"));
            return self.gone(core, conn, true);
        }
        let said = std::mem::take(&mut found.held);
        let Phase::Leaving(to, mail) = std::mem::replace(&mut found.phase, Phase::Gone) else {
            return;
        };
        link.near = None;
        match *mail {
            Mail::Parcel(parcel) => self.post(core, to, Happening::Adopt(to, number, parcel)),
            Mail::Client { entrance, .. } => {
                self.post(core, to, Happening::Seat(to, number, entrance, said));
            }
            other => self.violate(format!("{conn:?} was surrendered with {other:?}")),
        }
        self.soon(MS, Happening::Lane(core, Event::Closed { conn }));
    }

    /// A parcel arrives.
    pub(crate) fn adopt(&mut self, core: usize, link: LinkId, parcel: Parcel) {
        if !self.links.contains_key(&link) {
            return;
        }
        self.call(
            core,
            None,
            |lane, now, actions| lane.adopt(now, parcel, actions),
            |world, &conn| {
                world.say(|| format!("lane {core} adopts link {link} as {conn:?}"));
                world.bind(core, conn, link, Phase::Open);
            },
        );
        let Some((_, conn)) = self.links.get(&link).and_then(|link| link.near) else { return };
        if self.links.get(&link).is_some_and(|link| link.broken) {
            self.failed(core, conn, "connection reset by peer");
        } else {
            self.read(core, conn);
        }
    }
}
