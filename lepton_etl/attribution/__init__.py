"""Attribution: who held and used which part of a node, and what energy that caused."""
