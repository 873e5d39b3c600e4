"""How results show themselves in notebooks: small HTML with pictures as SVG, without scripts."""
