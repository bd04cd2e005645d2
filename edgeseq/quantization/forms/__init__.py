"""The forms a layer can take, one module for each kind of layer, and what they share. `candidates` lists them."""
