"""Commands of ``hetfed deploy`` that run something: coordinator, site, both on one machine, and their keys."""
