"""Inside a language model: task vectors, induction heads, and the routes and heads of labels."""
