//! Places for connections: used again, but never with the same id.

use crate::id::{ConnId, Side};

/// The connections of one side of a lane.
#[derive(Debug)]
pub struct Slab<T> {
    side: Side,
    /// The generation that every place starts behind.
    before: u32,
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    what: Option<Box<T>>,
}

impl<T> Slab<T> {
    /// An empty slab. The generations of its places begin after `before`: ids of a slab that was
    /// here earlier fit nobody either, if it has reached no higher.
    pub fn new(side: Side, before: u32) -> Self {
        Self { side, before, places: Vec::new(), free: Vec::new() }
    }

    /// Puts in what `make` makes of its id.
    pub fn insert(&mut self, make: impl FnOnce(ConnId) -> T) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: self.before, what: None });
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        let id = ConnId::new(self.side, index, place.generation);
        place.what = Some(Box::new(make(id)));
        id
    }

    /// Whoever has this id, if they are still here.
    pub fn get(&self, id: ConnId) -> Option<&T> {
        self.fits(id).and_then(|place| place.what.as_deref())
    }

    /// Whoever has this id, if they are still here.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        if id.side() != self.side {
            return None;
        }
        let place = self.places.get_mut(id.index())?;
        if place.generation != id.generation() {
            return None;
        }
        place.what.as_deref_mut()
    }

    /// Takes out whoever has this id; the place is free again.
    pub fn remove(&mut self, id: ConnId) -> Option<Box<T>> {
        self.fits(id)?;
        let place = self.places.get_mut(id.index())?;
        let what = place.what.take()?;
        self.free.push(u32::try_from(id.index()).unwrap_or(u32::MAX));
        Some(what)
    }

    /// Everybody, by place.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let what = place.what.as_deref()?;
            let index = u32::try_from(index).ok()?;
            Some((ConnId::new(self.side, index, place.generation), what))
        })
    }

    /// The ids of everybody.
    pub fn ids(&self) -> Vec<ConnId> {
        self.iter().map(|(id, _)| id).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether nobody is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn fits(&self, id: ConnId) -> Option<&Place<T>> {
        let place = self.places.get(id.index())?;
        (id.side() == self.side && place.generation == id.generation()).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::Slab;
    use crate::id::Side;

    #[test]
    fn a_place_is_used_again_but_its_old_id_fits_nobody() {
        let mut slab = Slab::new(Side::Client, 0);
        let alice = slab.insert(|_| "alice");
        slab.remove(alice);
        let bob = slab.insert(|_| "bob");
        assert_eq!(alice.index(), bob.index());
        assert_eq!((slab.get(alice), slab.get(bob), slab.len()), (None, Some(&"bob"), 1));
        assert!(slab.remove(alice).is_none());
    }

    #[test]
    fn an_id_of_an_earlier_slab_fits_nobody() {
        let mut earlier = Slab::new(Side::Server, 0);
        let alice = earlier.insert(|_| "alice");
        let mut slab = Slab::new(Side::Server, alice.generation());
        let bob = slab.insert(|_| "bob");
        assert_eq!(alice.index(), bob.index());
        assert_eq!((slab.get(alice), slab.get(bob)), (None, Some(&"bob")));
    }
}
