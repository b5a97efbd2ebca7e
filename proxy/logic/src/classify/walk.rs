//! A tree of the grammar, looked at as a whole.
//!
//! The tree is shown to a [`Serializer`] that writes nothing: it sees every node by its name and
//! every name in it, whatever the node hangs from, so that nothing can hide in a corner that
//! nobody thought of. What is not on the list of what only reads ends the walk.

use super::{Name, Names, Reason};
use core::fmt;
use pg_query::NodeEnum;
use pg_query::protobuf::{DefElem, a_const};
use serde::ser::{Error, Impossible, Serialize, SerializeSeq, SerializeStruct, Serializer};

/// Nodes that only read, if what is in them does.
const READS: &[&str] = &[
    "AArrayExpr",
    "AConst",
    "AExpr",
    "AIndices",
    "AIndirection",
    "AStar",
    "Alias",
    "BitString",
    "BoolExpr",
    "Boolean",
    "BooleanTest",
    "CaseExpr",
    "CaseWhen",
    "CoalesceExpr",
    "CollateClause",
    "ColumnDef",
    "ColumnRef",
    "CommonTableExpr",
    "CteCycleClause",
    "CteSearchClause",
    "Float",
    "FuncCall",
    "GroupingFunc",
    "GroupingSet",
    "Integer",
    "JoinExpr",
    "List",
    "MinMaxExpr",
    "NamedArgExpr",
    "Node",
    "NullTest",
    "ParamRef",
    "RangeFunction",
    "RangeSubselect",
    "RangeVar",
    "ResTarget",
    "RowExpr",
    "SelectStmt",
    "SortBy",
    "SqlValueFunction",
    "String",
    "SubLink",
    "TypeCast",
    "TypeName",
    "WindowDef",
    "WithClause",
];

/// What a tree names, if it only reads.
pub(super) fn read(tree: &impl Serialize) -> Result<Names, Reason> {
    let mut walk = Walk::default();
    match tree.serialize(&mut walk) {
        Ok(()) => Ok(walk.names),
        Err(Refused(reason)) => Err(reason),
    }
}

/// The number that an option is set to.
pub(super) fn integer(option: &DefElem) -> Option<i32> {
    match constant(option)? {
        a_const::Val::Ival(value) => Some(value.ival),
        a_const::Val::Fval(_)
        | a_const::Val::Boolval(_)
        | a_const::Val::Sval(_)
        | a_const::Val::Bsval(_) => None,
    }
}

/// The string that an option is set to.
pub(super) fn string(option: &DefElem) -> Option<&str> {
    match constant(option)? {
        a_const::Val::Sval(value) => Some(&value.sval),
        a_const::Val::Ival(_)
        | a_const::Val::Fval(_)
        | a_const::Val::Boolval(_)
        | a_const::Val::Bsval(_) => None,
    }
}

fn constant(option: &DefElem) -> Option<&a_const::Val> {
    let NodeEnum::AConst(constant) = option.arg.as_deref()?.node.as_ref()? else { return None };
    constant.val.as_ref()
}

/// Why a walk ended.
#[derive(Debug)]
struct Refused(Reason);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl core::error::Error for Refused {}

impl Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(Reason::Unparsed)
    }
}

/// What has been seen.
#[derive(Debug, Default)]
struct Walk {
    names: Names,
    /// The strings of the field at hand, if they are asked for.
    strings: Option<Vec<String>>,
}

impl Walk {
    /// The strings in `value`, which is walked like any other.
    fn strings_in(&mut self, value: &(impl Serialize + ?Sized)) -> Result<Vec<String>, Refused> {
        let outer = self.strings.replace(Vec::new());
        value.serialize(&mut *self)?;
        Ok(core::mem::replace(&mut self.strings, outer).unwrap_or_default())
    }
}

/// The name that these parts make: with a schema if there are more than one.
fn name(mut parts: Vec<String>) -> Option<Name> {
    let name = parts.pop()?.into_boxed_str();
    let schema = parts.pop().unwrap_or_default().into_boxed_str();
    Some(Name { schema, name })
}

/// One node, field by field.
struct Fields<'w> {
    walk: &'w mut Walk,
    node: &'static str,
    /// A relation's, until its name has come.
    schema: Box<str>,
}

impl SerializeStruct for Fields<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        let named = matches!(
            (self.node, key),
            ("FuncCall", "funcname")
                | ("AExpr", "name")
                | ("SubLink", "oper_name")
                | ("SortBy", "use_op")
                | ("TypeName", "names")
                | ("ColumnRef", "fields")
                | ("AIndirection", "indirection")
                | ("CommonTableExpr", "ctename")
                | ("RangeVar", "schemaname" | "relname")
        );
        if !named {
            // A constant is no name, wherever it stands.
            let constant = self.node == "AConst";
            let outer = if constant { self.walk.strings.take() } else { None };
            value.serialize(&mut *self.walk)?;
            if constant {
                self.walk.strings = outer;
            }
            return Ok(());
        }
        let mut parts = self.walk.strings_in(value)?;
        let found = &mut self.walk.names;
        match self.node {
            "FuncCall" => found.functions.extend(name(parts)),
            "TypeName" => found.types.extend(name(parts)),
            "ColumnRef" => found.attributes.extend(parts.drain(..).skip(1).map(Into::into)),
            "AIndirection" => found.attributes.extend(parts.drain(..).map(Into::into)),
            "CommonTableExpr" => found.queries.extend(parts.drain(..).map(Into::into)),
            "RangeVar" if key == "schemaname" => {
                self.schema = parts.pop().unwrap_or_default().into();
            }
            "RangeVar" => {
                let schema = core::mem::take(&mut self.schema);
                let relation = parts.pop().unwrap_or_default().into();
                found.relations.insert(Name { schema, name: relation });
            }
            _ => found.operators.extend(name(parts)),
        }
        Ok(())
    }

    fn end(self) -> Result<(), Refused> {
        Ok(())
    }
}

impl SerializeSeq for &mut Walk {
    type Ok = ();
    type Error = Refused;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), Refused> {
        Ok(())
    }
}

/// The tree holds none of these.
type None = Impossible<(), Refused>;

/// What the tree holds none of.
fn never<T>() -> Result<T, Refused> {
    Err(Refused(Reason::Unparsed))
}

impl<'w> Serializer for &'w mut Walk {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = &'w mut Walk;
    type SerializeTuple = None;
    type SerializeTupleStruct = None;
    type SerializeTupleVariant = None;
    type SerializeMap = None;
    type SerializeStruct = Fields<'w>;
    type SerializeStructVariant = None;

    fn serialize_struct(self, node: &'static str, _: usize) -> Result<Fields<'w>, Refused> {
        if READS.binary_search(&node).is_err() {
            return Err(Refused(Reason::Holds(node)));
        }
        Ok(Fields { walk: self, node, schema: Box::default() })
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<&'w mut Walk, Refused> {
        Ok(self)
    }

    fn serialize_str(self, text: &str) -> Result<(), Refused> {
        if let Some(strings) = &mut self.strings {
            strings.push(text.to_owned());
        }
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_none(self) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_unit(self) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_bool(self, _: bool) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_i32(self, _: i32) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_u32(self, _: u32) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_i64(self, _: i64) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_u64(self, _: u64) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_i8(self, _: i8) -> Result<(), Refused> {
        never()
    }

    fn serialize_i16(self, _: i16) -> Result<(), Refused> {
        never()
    }

    fn serialize_u8(self, _: u8) -> Result<(), Refused> {
        never()
    }

    fn serialize_u16(self, _: u16) -> Result<(), Refused> {
        never()
    }

    fn serialize_f32(self, _: f32) -> Result<(), Refused> {
        never()
    }

    fn serialize_f64(self, _: f64) -> Result<(), Refused> {
        never()
    }

    fn serialize_char(self, _: char) -> Result<(), Refused> {
        never()
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Refused> {
        never()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Refused> {
        never()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<(), Refused> {
        never()
    }

    fn serialize_tuple(self, _: usize) -> Result<None, Refused> {
        never()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<None, Refused> {
        never()
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<None, Refused> {
        never()
    }

    fn serialize_map(self, _: Option<usize>) -> Result<None, Refused> {
        never()
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<None, Refused> {
        never()
    }
}
