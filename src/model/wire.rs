//! Counts what an ONNX file holds before it is decoded.
//!
//! Decoding turns a field of two bytes into a struct of several hundred. [`check`] walks the fields, stores nothing, and
//! stops at the first limit. The walk knows the messages of `onnx.proto`, so its recursion ends: the only message that can
//! contain itself is a graph, and a graph inside a node is refused.

use super::{
    invalid,
    limits::{MAX_FIELDS, MAX_INTEGERS, MAX_MODEL_BYTES},
};
use crate::{Error, Result};

/// The messages of `onnx.proto` that hold other messages or lists of integers.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    /// Any other message.
    Other,
}

/// What the bytes of a field are.
enum Content {
    Message(Message),
    /// Packed integers, which take up to eight times their bytes when they are decoded.
    Integers,
    Subgraph,
    /// A string, or data that takes as much memory as it has bytes.
    Bytes,
}

impl Message {
    fn content(self, field: u64) -> Content {
        match (self, field) {
            (Message::Model, 7) => Content::Message(Message::Graph),
            (Message::Graph, 1) => Content::Message(Message::Node),
            (Message::Graph, 5) | (Message::Attribute, 5 | 10) => Content::Message(Message::Tensor),
            (Message::Graph, 11..=13) => Content::Message(Message::ValueInfo),
            (Message::Node, 5) => Content::Message(Message::Attribute),
            (Message::ValueInfo, 2) => Content::Message(Message::Type),
            (Message::Type, 1) => Content::Message(Message::TensorType),
            (Message::TensorType, 2) => Content::Message(Message::Shape),
            (Message::Model, 8 | 14) | (Message::Tensor, 3 | 13) | (Message::Shape, 1) => {
                Content::Message(Message::Other)
            }
            (Message::Attribute, 8) | (Message::Tensor, 1 | 5 | 7 | 11) => Content::Integers,
            (Message::Attribute, 6 | 11) => Content::Subgraph,
            _ => Content::Bytes,
        }
    }
}

/// Fails with `Model.Invalid` if the file is malformed, is too large, has too many fields or has a subgraph.
pub(super) fn check(file: &[u8]) -> Result<()> {
    if file.len() as u64 > MAX_MODEL_BYTES {
        return Err(invalid(format!("it has {} bytes; at most {MAX_MODEL_BYTES} are supported", file.len())));
    }
    Counter { fields: 0, integers: 0 }.message(file, Message::Model)
}

struct Counter {
    fields: usize,
    integers: usize,
}

impl Counter {
    fn message(&mut self, mut rest: &[u8], message: Message) -> Result<()> {
        while !rest.is_empty() {
            self.fields += 1;
            if self.fields > MAX_FIELDS {
                return Err(invalid(format!("it has more than {MAX_FIELDS} fields (nodes, attributes, names)")));
            }
            let tag = varint(&mut rest)?;
            let length = match tag & 7 {
                0 => {
                    varint(&mut rest)?;
                    0
                }
                1 => 8,
                2 => varint(&mut rest)?,
                5 => 4,
                other => return Err(unreadable(format!("a field has the wire type {other}"))),
            };
            let bytes = take(&mut rest, length)?;
            if tag & 7 == 2 {
                self.content(bytes, message.content(tag >> 3))?;
            }
        }
        Ok(())
    }

    fn content(&mut self, bytes: &[u8], content: Content) -> Result<()> {
        match content {
            Content::Message(message) => self.message(bytes, message),
            Content::Subgraph => Err(invalid(
                "one of its nodes contains a graph (If, Loop or Scan), whose sizes cannot be checked before it runs; \
                 simplify the model, for example with onnxsim",
            )),
            Content::Integers => {
                // The last byte of an integer has no high bit.
                self.integers += bytes.iter().filter(|byte| **byte < 0x80).count();
                if self.integers > MAX_INTEGERS {
                    return Err(invalid(format!("its lists have more than {MAX_INTEGERS} integers")));
                }
                Ok(())
            }
            Content::Bytes => Ok(()),
        }
    }
}

fn unreadable(detail: String) -> Error {
    invalid("it is not a readable ONNX file").source(detail)
}

/// Removes `length` bytes from the start.
fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8]> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let Some((bytes, after)) = rest.split_at_checked(length) else {
        return Err(unreadable(format!("a field has {length} bytes, and {} are left", rest.len())));
    };
    *rest = after;
    Ok(bytes)
}

/// Removes an integer of 1 to 10 bytes from the start.
fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for (index, byte) in rest.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            *rest = &rest[index + 1..];
            return Ok(value);
        }
    }
    Err(unreadable("an integer does not end".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(file: &[u8]) -> String {
        check(file).unwrap_err().to_string()
    }

    #[test]
    fn malformed_files_are_refused() {
        assert!(check(&[]).is_ok());
        assert!(check(include_bytes!("../../tests/models/tiny.onnx")).is_ok());
        assert!(reason(&[0x3a, 5, 0]).contains("5 bytes, and 1 are left"));
        assert!(reason(&[0x3b]).contains("wire type 3"));
        assert!(reason(&[0xff; 11]).contains("does not end"));
        assert!(reason(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).contains("0 are left"));
    }

    #[test]
    fn many_empty_nodes_are_refused_before_they_are_decoded() {
        // Model { graph { node {} node {} ... } }
        let nodes = [0x0a, 0x00].repeat(MAX_FIELDS);
        let mut length = nodes.len();
        let mut file = vec![0x3a];
        while length >= 0x80 {
            file.push(length as u8 | 0x80);
            length >>= 7;
        }
        file.push(length as u8);
        file.extend(nodes);
        assert!(reason(&file).contains("more than 524288 fields"));
    }

    #[test]
    fn a_graph_inside_a_node_is_refused() {
        // Model { graph { node { attribute { g {} } } } }
        assert!(reason(&[0x3a, 6, 0x0a, 4, 0x2a, 2, 0x32, 0]).contains("contains a graph"));
        assert!(reason(&[0x3a, 6, 0x0a, 4, 0x2a, 2, 0x5a, 0]).contains("contains a graph"));
    }
}
