//! The statement names of one client, and the texts it means by them.

use crate::prepared::texts::StatementId;
use std::collections::BTreeMap;

/// The statement names of one client. The empty name is the unnamed statement.
///
/// A client without statements pays one pointer for it; one that only ever uses the unnamed
/// statement (most drivers) pays one small allocation, once.
#[derive(Debug, Default)]
pub struct ClientStatements(Option<Box<Names>>);

#[derive(Debug, Default)]
struct Names {
    unnamed: Option<StatementId>,
    named: BTreeMap<Box<[u8]>, StatementId>,
}

impl ClientStatements {
    /// The client means `id` by `name` from now on. What it meant before is handed back.
    ///
    /// `PostgreSQL` refuses a Parse with a name already taken unless it is the unnamed one;
    /// whether to ask [`Self::get`] first is the caller's affair.
    pub fn insert(&mut self, name: &[u8], id: StatementId) -> Option<StatementId> {
        let names = self.0.get_or_insert_default();
        if name.is_empty() {
            return names.unnamed.replace(id);
        }
        if let Some(place) = names.named.get_mut(name) {
            return Some(std::mem::replace(place, id));
        }
        names.named.insert(name.into(), id)
    }

    /// What the client means by `name`.
    pub fn get(&self, name: &[u8]) -> Option<StatementId> {
        let names = self.0.as_ref()?;
        if name.is_empty() { names.unnamed } else { names.named.get(name).copied() }
    }

    /// The client means nothing by `name` from now on.
    pub fn remove(&mut self, name: &[u8]) -> Option<StatementId> {
        let names = self.0.as_mut()?;
        if name.is_empty() { names.unnamed.take() } else { names.named.remove(name) }
    }

    /// Forgets all names: the client has left.
    pub fn drain(&mut self) -> impl Iterator<Item = StatementId> + use<> {
        self.0.take().into_iter().flat_map(|names| {
            let Names { unnamed, named } = *names;
            unnamed.into_iter().chain(named.into_values())
        })
    }

    /// Forgets all names but the unnamed statement, which `PostgreSQL` keeps through
    /// `DEALLOCATE ALL` and `DISCARD ALL`.
    pub fn drain_named(&mut self) -> impl Iterator<Item = StatementId> + use<> {
        let named = self.0.as_mut().map(|names| std::mem::take(&mut names.named));
        named.into_iter().flat_map(BTreeMap::into_values)
    }

    /// Every named statement with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], StatementId)> {
        let names = self.0.iter().flat_map(|names| names.named.iter());
        names.map(|(name, id)| (&**name, *id))
    }

    /// How many names it uses.
    pub fn len(&self) -> usize {
        let count = |names: &Names| usize::from(names.unnamed.is_some()) + names.named.len();
        self.0.as_deref().map_or(0, count)
    }

    /// Whether it uses none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::ClientStatements;
    use crate::prepared::texts::Texts;

    #[test]
    fn a_client_without_statements_costs_a_pointer() {
        assert_eq!(size_of::<ClientStatements>(), size_of::<usize>());
    }

    #[test]
    fn closing_a_name_and_parsing_it_again_with_other_types_means_the_new_text() {
        let mut texts = Texts::new(1);
        let text = texts.intern(b"select $1\0\0\0", Default::default);
        let typed = texts.intern(b"select $1\0\0\x01\0\0\0\x17", Default::default);
        let mut client = ClientStatements::default();
        assert_eq!(client.insert(b"s", text), None);
        assert_eq!(client.remove(b"s"), Some(text));
        assert_eq!(client.get(b"s"), None, "an unknown name is an error, not an old text");
        assert_eq!(client.insert(b"s", typed), None);
        assert_eq!(client.get(b"s"), Some(typed));
    }

    #[test]
    fn deallocate_all_spares_the_unnamed_statement() {
        let mut texts = Texts::new(1);
        let ids = [0, 1, 2].map(|n| texts.intern(&[b'0' + n, 0, 0, 0], Default::default));
        let mut client = ClientStatements::default();
        for (name, id) in [&b""[..], b"a", b"b"].into_iter().zip(ids) {
            client.insert(name, id);
        }
        assert_eq!(client.drain_named().collect::<Vec<_>>(), ids[1..]);
        assert_eq!((client.len(), client.get(b"")), (1, Some(ids[0])));
        assert_eq!(client.insert(b"", ids[1]), Some(ids[0]), "each Parse replaces the last");
        assert_eq!(client.drain().collect::<Vec<_>>(), ids[1..2]);
        assert!(client.is_empty());
    }
}
