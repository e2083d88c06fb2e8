"""Building blocks of vision transformers: one mechanism a file, nothing in it knows a model or a loss.

    rope.py         where a token stands          attention.py   tokens read one another
    patch_embed.py  pixels -> tokens              mlp.py         each token thinks by itself
    drop_path.py, layer_scale.py  what a residual branch may lose or be scaled by
    block.py        one pre-norm block            vit.py         patches -> blocks -> norm
    initialise.py   the weights that training starts from

Letters of shapes, here and in the models:

    N  images      L  positions of the patch grid, row by row      K  tokens that are present, K <= L
    D  width       H  heads                                        E  features of one head, D = H * E
"""
