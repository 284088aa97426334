"""One definition of every feature; its table form, its moment form, its ring buffer."""
